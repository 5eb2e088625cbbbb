"""The second seed notebook's pipeline on a local model: rows padded to max_length, cut on the right, Trainer.

Its dropout is .1 whatever ours is. `bf16`, `fp16` and the CPU are asked for as the notebook's user would have to.
"""

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

from pref_dist.bench.parts import EvaluateQuestion, TrainQuestion
from pref_dist.bench.peer_run import (
    load_classifier,
    measure_prediction,
    measure_trainer,
    read_texts,
    settle_precision,
    shared_settings,
)


def measure_training(question: TrainQuestion) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(question.model, trust_remote_code=False)
    dataset = tokenize(question.rows_csv, tokenizer, question.max_tokens)
    valid = tokenize(question.valid_csv, tokenizer, question.max_tokens) if question.with_log_loss else None
    model = load_classifier(question.model, question.dropout, question.seed)
    precision = settle_precision(question.precision)

    def build(max_steps: int, learning_rate: float) -> Trainer:
        shared = shared_settings(question, precision, max_steps, learning_rate)
        arguments = TrainingArguments(**shared, warmup_steps=0.1)
        collator = DataCollatorWithPadding(tokenizer=tokenizer)
        return Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)

    return measure_trainer(build, model, precision, len(dataset), valid)


def measure_evaluation(question: EvaluateQuestion) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(question.model, trust_remote_code=False)
    return measure_prediction(question, tokenizer, tokenize(question.rows_csv, tokenizer, question.max_tokens))


def tokenize(rows_csv: str, tokenizer: Any, max_tokens: int) -> Dataset:
    """Return input_ids and attention_mask of `max_tokens` each, and labels."""

    def encode(batch: dict[str, list[Any]]) -> Any:
        encoded = tokenizer(batch["text"], padding="max_length", truncation=True, max_length=max_tokens)
        return encoded | {"labels": batch["labels"]}

    dataset = Dataset.from_dict(read_texts(rows_csv)).map(encode, batched=True, remove_columns=["text"])
    dataset.set_format("torch")
    return dataset
