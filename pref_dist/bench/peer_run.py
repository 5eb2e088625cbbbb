"""What the peers share: weights, rows and a clock around transformers' Trainer, which itself is left as it is."""

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from pref_dist.bench.clock import Clock
from pref_dist.bench.matrix_work import DTYPES, TIMES_IN_TRAINING, count_linear_work, measure_matmul_rate
from pref_dist.bench.measurement import Measurement
from pref_dist.bench.parts import EvaluateQuestion, TrainQuestion
from pref_dist.config.model_section import ModelSection
from pref_dist.data.records import allow_long_cells
from pref_dist.errors import BenchError
from pref_dist.labels import WINNER_COLUMNS
from pref_dist.models.model_config import read_model_config
from pref_dist.runtime.parallel import stand_alone
from pref_dist.runtime.precision import resolve_precision

EVALUATION_BATCH = 16  # the notebook's


def read_texts(path: str) -> dict[str, list[Any]]:
    """Return the rows as the second seed notebook renders them, on the cells as they stand in the file."""
    allow_long_cells()
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [f"Prompt: {r['prompt']} \n Response A: {r['response_a']} \n Response B: {r['response_b']}" for r in rows]
    labels = [max(range(3), key=lambda label: float(row[WINNER_COLUMNS[label]])) for row in rows]
    return {"text": texts, "labels": labels}


def load_classifier(model: str, dropout: float, seed: int = 0) -> Any:
    """Return transformers' own classifier with 3 labels and this dropout everywhere."""
    settings = ModelSection(name=model, dropout=dropout, head_dropout=dropout)
    config = read_model_config(settings, Path(model))
    torch.manual_seed(seed)  # the new head
    return AutoModelForSequenceClassification.from_pretrained(model, config=config, trust_remote_code=False)


def shared_settings(question: TrainQuestion, precision: str, max_steps: int, learning_rate: float) -> dict[str, Any]:
    """Return what all peers say to TrainingArguments: the notebook's settings, which files and which progress aside."""
    return {
        "output_dir": question.folder, "learning_rate": learning_rate, "weight_decay": 0.01,
        "per_device_train_batch_size": question.rows_per_step, "num_train_epochs": 1, "max_steps": max_steps,
        "save_strategy": "no", "logging_steps": 50, "report_to": "none", "disable_tqdm": True,
        "seed": question.seed, **precision_flags(precision),
    }  # fmt: skip


def precision_flags(precision: str) -> dict[str, bool]:
    """Return what TrainingArguments calls the precision, and whether it is to stay on the CPU."""
    return {"bf16": precision == "bf16", "fp16": precision == "fp16", "use_cpu": not torch.cuda.is_available()}


def settle_precision(asked: Any) -> str:
    return resolve_precision(asked, stand_alone().device)


class CountedInputs:
    """Counts what goes into a model: rows, tokens with and without padding, and how wide each batch is.

    Sums stay on the device until they are asked for, so that counting does not wait for a GPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rows = self.padded_tokens = 0
        self.widths: list[int] = []
        self._tokens: list[Tensor] = []
        self._hook = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named["attention_mask"]
        self.rows += len(mask)
        self.padded_tokens += mask.numel()
        self.widths.append(mask.shape[1])
        self._tokens.append(mask.sum())

    @property
    def tokens(self) -> int:
        return sum(int(count) for count in self._tokens)

    def remove(self) -> None:
        self._hook.remove()


class ClockedSteps(TrainerCallback):  # type: ignore[misc]  # transformers' classes have no types
    """Starts the clock before the first batch is made, and stops it after the last step's update."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            self._clock.stop()


class WaitingTime:
    """Seconds that a Trainer spends in getting its next batches."""

    def __init__(self, trainer: Any) -> None:
        self.seconds = 0.0
        self._get = trainer.get_batch_samples
        trainer.get_batch_samples = self._timed

    def _timed(self, iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        started = time.perf_counter()
        found = self._get(iterator, num_batches, device)
        self.seconds += time.perf_counter() - started
        return found


def measure_trainer(
    build: Callable[[int, float], Trainer], model: Any, precision: str, num_rows: int, valid: Any = None
) -> dict[str, Any]:
    """Train one epoch by the Trainer that `build` returns; return a Measurement as plain values.

    Before that one step at rate 0, by a Trainer of its own, warms up without changing a weight. valid: rows whose log
    loss is to be known afterwards. Raises BenchError unless every row went through the model once.
    """
    build(1, 0.0).train()
    device = stand_alone().device
    clock = Clock(device)
    trainer = build(-1, 2e-5)
    trainer.add_callback(ClockedSteps(clock))
    waiting, counted = WaitingTime(trainer), CountedInputs(model)
    trainer.train()
    counted.remove()
    if counted.rows != num_rows:
        raise BenchError(f"{counted.rows:,} rows went through the model instead of {num_rows:,}. This is a bug.")
    found = describe(model, counted, clock, precision, TIMES_IN_TRAINING)
    scores = {} if valid is None else {"log_loss": find_log_loss(trainer.predict(valid))}
    return asdict(found) | {"data_seconds": waiting.seconds} | scores


def find_log_loss(predicted: Any) -> float:
    """Return the log loss of what Trainer.predict returned for labelled rows, in nats a row."""
    logits, labels = torch.as_tensor(predicted.predictions).double(), torch.as_tensor(predicted.label_ids)
    return float(nn.functional.cross_entropy(logits, labels))


def measure_prediction(question: EvaluateQuestion, tokenizer: Any, dataset: Any) -> dict[str, Any]:
    """Predict all rows once, after the first batch for warm-up; return a Measurement as plain values."""
    precision = settle_precision(question.precision)
    model = load_classifier(question.model, dropout=0.0)  # nothing is dropped in evaluation
    arguments = TrainingArguments(
        output_dir=question.folder, per_device_eval_batch_size=EVALUATION_BATCH, report_to="none", disable_tqdm=True,
        **precision_flags(precision),
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, data_collator=DataCollatorWithPadding(tokenizer=tokenizer))
    trainer.predict(dataset.select(range(min(EVALUATION_BATCH, len(dataset)))))
    clock, counted = Clock(stand_alone().device), CountedInputs(model)
    clock.start()
    trainer.predict(dataset)
    clock.stop()
    counted.remove()
    return asdict(describe(model, counted, clock, precision, times=1))


def describe(model: Any, counted: CountedInputs, clock: Clock, precision: str, times: int) -> Measurement:
    work, device = count_linear_work(model.config), stand_alone().device
    num_tokens, num_batches = counted.tokens, len(counted.widths)
    return Measurement(
        rows=counted.rows,
        steps=num_batches,
        tokens=num_tokens,
        padded_tokens=counted.padded_tokens,
        linear_flops=times * work.flops(num_tokens, counted.rows),
        matmul_flops_per_second=measure_matmul_rate(
            work, counted.padded_tokens // num_batches, DTYPES[precision], device
        ),
        precision=precision,
        **clock.figures(),
        batch_widths=counted.widths,
    )
