"""Tiny tokenizers, trained here, and CSV files, written here: nothing is downloaded."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pref_dist.config.schema import DataSection
from pref_dist.data.encode import TokenizerSpec, load_tokenizer

CORPUS = [
    "Prompt: Response A: Response B: Round 1: 2 3 4 5 6 7 8 9 0 ... [SEP]",
    "the quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Which of the two answers is better? The first one explains more; the second is short.",
    "日本語の文章も少しあります。Ελληνικά, русский, naïve café, 😀👍🏽",
]
# As WordPiece and byte-level tokenizers of chat models could have them; the second trims, as many do.
WORDPIECE_CHAT = "[CLS]user: {{ messages[0]['content'] }} [SEP]{% if add_generation_prompt %}assistant:{% endif %}"
BYTE_LEVEL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}\n"
    "{{ message['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
HEADER = ("id", "model_a", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **special: str) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def wordpiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT-like tokenizer; a length of 16 stands in its file, as it does in some published ones."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names["chat_template"] = WORDPIECE_CHAT
    return save_tokenizer(tokenizer, tmp_path_factory.mktemp("wordpiece"), **names)


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa-like tokenizer that writes most characters beyond ASCII as several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    names["chat_template"] = BYTE_LEVEL_CHAT
    return save_tokenizer(tokenizer, tmp_path_factory.mktemp("byte_level"), **names)


@pytest.fixture(scope="session")
def wordpiece(wordpiece_folder: Path) -> TokenizerSpec:
    return load_tokenizer(wordpiece_folder)


@pytest.fixture(scope="session")
def byte_level(byte_level_folder: Path) -> TokenizerSpec:
    return load_tokenizer(byte_level_folder)


@pytest.fixture(scope="session", params=["wordpiece", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> TokenizerSpec:
    spec: TokenizerSpec = request.getfixturevalue(request.param)
    return spec


def build_record(number: int, **changes: Any) -> dict[str, str]:
    """One good row of the file, with some cells changed; a list becomes a JSON cell."""
    winner = number % 3
    cells: dict[str, Any] = {
        "id": 1000 + number,
        "model_a": "some, model",
        "prompt": [f'Which "number" is number {number}?'],
        "response_a": [f"It is\nthe number {number}."],
        "response_b": [f"I cannot say, or is it {number + 1}? 日本語 😀"],
        **{name: int(winner == index) for index, name in enumerate(HEADER[-3:])},
        **changes,
    }
    return {name: json.dumps(cell) if isinstance(cell, list) else str(cell) for name, cell in cells.items()}


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts of cells, or a number of good rows) to a CSV file; return its path."""

    def write(rows: int | Sequence[dict[str, str]], name: str = "train.csv", columns: Sequence[str] = HEADER) -> Path:
        records = [build_record(number) for number in range(rows)] if isinstance(rows, int) else rows
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(records)
        return tmp_path / name

    return write


@pytest.fixture
def record() -> Callable[..., dict[str, str]]:
    return build_record


@pytest.fixture
def data() -> DataSection:
    return DataSection(max_tokens=96)
