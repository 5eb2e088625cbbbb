"""transformers' Trainer as fast as its own settings make it: rows of similar length together, padded to the longest
of their batch, fused AdamW, and the dropout that is asked for.

group_by_length sorts pools of 50 batches, but of few rows it makes at least four pools. A measurement has few rows and
stands for a real data set, so here the pool has 50 batches on any: never less sorted than where it would be used.
"""

from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from pref_dist.bench.parts import EvaluateQuestion, TrainQuestion
from pref_dist.bench.peer_run import (
    load_classifier,
    measure_prediction,
    measure_trainer,
    read_texts,
    settle_precision,
    shared_settings,
)

BATCHES_A_POOL = 50  # transformers' own number


class LargePoolSampler(LengthGroupedSampler):  # type: ignore[misc]  # transformers' classes have no types
    """transformers' sampler with the pools that it has on a large data set."""

    def __iter__(self) -> Iterator[int]:
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, BATCHES_A_POOL, self.generator))


class GroupingTrainer(Trainer):  # type: ignore[misc]  # as above
    """Trainer, whose group_by_length is that of a large data set."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LargePoolSampler:
        found = super()._get_train_sampler(train_dataset)
        assert isinstance(found, LengthGroupedSampler), "train_sampling_strategy is group_by_length"
        return LargePoolSampler(found.batch_size, lengths=found.lengths, generator=found.generator)


def measure_training(question: TrainQuestion) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(question.model, trust_remote_code=False)
    dataset = tokenize(question.rows_csv, tokenizer, question.max_tokens)
    valid = tokenize(question.valid_csv, tokenizer, question.max_tokens) if question.with_log_loss else None
    model = load_classifier(question.model, question.dropout, question.seed)
    precision = settle_precision(question.precision)

    def build(max_steps: int, learning_rate: float) -> Trainer:
        arguments = TrainingArguments(
            **shared_settings(question, precision, max_steps, learning_rate),
            train_sampling_strategy="group_by_length", length_column_name="length", optim="adamw_torch_fused",
        )  # fmt: skip
        collator = DataCollatorWithPadding(tokenizer=tokenizer)
        return GroupingTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)

    return measure_trainer(build, model, precision, len(dataset), valid)


def measure_evaluation(question: EvaluateQuestion) -> dict[str, Any]:
    """Batches of similar length, which Trainer's evaluation takes from a sorted data set."""
    tokenizer = AutoTokenizer.from_pretrained(question.model, trust_remote_code=False)
    dataset = tokenize(question.rows_csv, tokenizer, question.max_tokens)
    return measure_prediction(question, tokenizer, dataset.sort("length", reverse=True))


def tokenize(rows_csv: str, tokenizer: Any, max_tokens: int) -> Dataset:
    """Return input_ids and attention_mask of each row's own length, that length, and labels."""
    found = read_texts(rows_csv)
    encoded = tokenizer(found["text"], truncation=True, max_length=max_tokens)
    return Dataset.from_dict(
        {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "length": [len(ids) for ids in encoded["input_ids"]],
            "labels": found["labels"],
        }
    )
