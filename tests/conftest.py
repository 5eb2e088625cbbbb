"""Fixtures of the whole suite: a small sample, and a tiny model folder with a real tokenizer."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_model
from tests.tiny_runs import TinyRuns

# Before anything imports torch: tests must give the same numbers whatever the machine looks like.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Files are handed out whole, to whoever is free: the longest first, or one process would end minutes after the other.
LONGEST_FIRST = ("slurm", "faults", "ranks", "launch", "recipes", "documents")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rooms = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rooms.get(item.path.relative_to(Path(__file__).parent).parts[0], len(rooms)))


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (300 rows), test.csv, test_labels.csv (60 rows) and bayes.csv."""
    from pref_dist.data.synthetic import write_sample

    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, num_train=300, num_test=60, seed=7)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> Path:
    """A BERT of 2 layers x 32, random weights from a seed, with a WordPiece tokenizer trained on the sample."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny_bert"), sample_dir / "train.csv")


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with an embedding of 72 MB: two ranks have shards to write, for long enough to be killed."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide_bert")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=280_000, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token cache for all tests that train, so that each set of rows is tokenised once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def write_run(tmp_path: Path, sample_dir: Path, tiny_model: Path, cache_dir: Path):
    """Return a function that writes a run config for the tiny model and returns (RUN.yaml, RUN_DIR)."""

    return TinyRuns(tmp_path, sample_dir / "train.csv", tiny_model, cache_dir).write


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
