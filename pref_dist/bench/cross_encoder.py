"""sentence-transformers' CrossEncoder trainer, where that is installed (tried with 6.2.0)."""

import csv
from typing import Any

import torch
from datasets import Dataset

from pref_dist.bench.parts import TrainQuestion
from pref_dist.bench.peer_run import measure_trainer, read_texts, settle_precision, shared_settings
from pref_dist.data.records import allow_long_cells


def measure_training(question: TrainQuestion) -> dict[str, Any]:
    """Prompt against both responses as its pair of texts, three classes by cross entropy, its own collator."""
    # mypy: the package is one that most have not installed.
    from sentence_transformers.cross_encoder import (  # type: ignore[import-not-found]
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss  # type: ignore[import-not-found]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(question.seed)  # the new head
    encoder = CrossEncoder(question.model, num_labels=3, max_length=question.max_tokens, device=device)
    dataset, precision = read_pairs(question.rows_csv), settle_precision(question.precision)

    def build(max_steps: int, learning_rate: float) -> Any:
        arguments = CrossEncoderTrainingArguments(**shared_settings(question, precision, max_steps, learning_rate))
        return CrossEncoderTrainer(model=encoder, args=arguments, train_dataset=dataset, loss=CrossEntropyLoss(encoder))

    # It calls the classifier's forward past its hooks; the encoder inside is called as a module.
    return measure_trainer(build, encoder.model.base_model, precision, len(dataset))


def read_pairs(rows_csv: str) -> Dataset:
    """Return the columns text (the prompt), pair (both responses) and label, in the order that the trainer wants."""
    allow_long_cells()
    with open(rows_csv, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Dataset.from_dict(
        {
            "text": [row["prompt"] for row in rows],
            "pair": [f"Response A: {row['response_a']} \n Response B: {row['response_b']}" for row in rows],
            "label": read_texts(rows_csv)["labels"],
        }
    )
