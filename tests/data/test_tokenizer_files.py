"""Tokenizers that cannot be used: each says what is missing, and where."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pref_dist.data.encode import load_tokenizer
from pref_dist.errors import ModelError
from tests.data.conftest import save_tokenizer
from tests.models.test_build import FAMILIES

VOCABULARY = {"<pad>": 0, "<end>": 1, "<unk>": 2, "which": 3, "one": 4}


def write_words(folder, **special):
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return save_tokenizer(tokenizer, folder, unk_token="<unk>", **special)


def test_a_tokenizer_without_a_token_that_ends_a_text_names_the_setting(tmp_path):
    with pytest.raises(
        ModelError, match=r"neither a sep_token nor an eos_token\. Set one of them in its tokenizer_conf"
    ):
        load_tokenizer(write_words(tmp_path, pad_token="<pad>"))


@pytest.mark.parametrize("name", ["sep_token", "eos_token"])
def test_a_tokenizer_without_a_pad_token_pads_with_what_ends_a_text(tmp_path, name):
    spec = load_tokenizer(write_words(tmp_path, **{name: "<end>"}))
    assert (spec.sep_id, spec.pad_id, spec.cls_id) == (1, 1, None)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_missing_tokenizer_files_are_an_error_and_not_a_tokenizer_that_knows_no_word(tmp_path, family):
    FAMILIES[family].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_file_is_an_error_with_the_folder(tiny_model, tmp_path, name):
    for path in tiny_model.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text("{")
    with pytest.raises(ModelError, match=r"cannot be loaded.*Name a folder with tokenizer\.json"):
        load_tokenizer(tmp_path)
