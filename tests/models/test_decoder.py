"""Causal language models as judges, from tiny random models of their real classes (see tests/tiny_llm.py)."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from pref_dist.config.model_section import LoraSection, ModelSection
from pref_dist.config.schema import DataSection, RunConfig
from pref_dist.data.batches import pad
from pref_dist.data.encode import RowEncoder, load_tokenizer
from pref_dist.data.rows import Row, Turn
from pref_dist.errors import ModelError
from pref_dist.models.build import build_model
from pref_dist.models.compiling import compile_layers
from pref_dist.models.layers import list_layers
from pref_dist.models.recompute import recompute_activations
from pref_dist.optim import OptimizerSettings, build_parameter_groups
from tests.tiny_llm import FAMILIES, write_tiny_llm

TEXTS = ("Which one?", "the first of the two", "No.", "the second one, because it says more about the question")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory, sample_dir):
    return write_tiny_llm(tmp_path_factory.mktemp(request.param), sample_dir / "train.csv", request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, sample_dir):
    return write_tiny_llm(tmp_path_factory.mktemp("llama"), sample_dir / "train.csv", "llama")


def build(folder, seed=0, kind="decoder", **settings):
    vocab_size = load_tokenizer(folder).vocab_size
    return build_model(ModelSection(kind=kind, name=str(folder), **settings), folder, 256, vocab_size, seed)


def encode(folder, *rows):
    """Return the token ids of each row (prompt, A, B) in the chat template."""
    encoder = RowEncoder(load_tokenizer(folder), 256, "chat")
    encoded = encoder.encode([Row(n, str(n), (Turn(*row),), (1.0, 0.0, 0.0)) for n, row in enumerate(rows)])
    ends = encoded.lengths.cumsum()
    return [encoded.input_ids[end - length : end] for end, length in zip(ends, encoded.lengths, strict=True)]


def some_rows(folder):
    return encode(folder, TEXTS[:3], (TEXTS[0], TEXTS[3], TEXTS[1] * 5), ("Why?", "", "No."))


def test_a_row_does_not_depend_on_its_batch_mates_though_it_is_padded_with_a_token_that_rows_hold(folder):
    spec = load_tokenizer(folder)
    assert spec.pad_id == spec.sep_id, "these tokenizers pad with eos"
    rows = some_rows(folder)
    assert all(spec.pad_id in row[:-1] for row in rows)
    module = build(folder).module.eval()
    with torch.no_grad():
        together = module(**pad(rows, spec.pad_id)).logits
        for place, row in enumerate(rows):
            alone = module(**pad([row], spec.pad_id)).logits[0]
            torch.testing.assert_close(together[place], alone, rtol=0, atol=1e-5)
            wider = pad([row, rows[1]], spec.pad_id)
            wider["input_ids"][0, len(row) :] = 5  # whatever stands there
            torch.testing.assert_close(module(**wider).logits[0], alone, rtol=0, atol=1e-5)


def test_the_logits_are_the_heads_on_the_last_real_token(folder):
    rows = some_rows(folder)
    built = build(folder)
    backbone = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = built.module.eval()(**pad(rows, 0)).logits
        for place, row in enumerate(rows):
            hidden = backbone(input_ids=torch.tensor(row[None].tolist())).last_hidden_state[0, -1]
            torch.testing.assert_close(found[place], built.module.score.weight @ hidden, rtol=0, atol=1e-5)


def test_names_are_those_of_transformers_own_classifier_and_only_the_head_is_new(folder):
    built = build(folder)
    theirs = AutoModelForSequenceClassification.from_config(built.module.config)
    assert [name for name, _ in built.module.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert built.head_names == built.new_names == ("score.weight",)


def test_the_head_depends_on_the_seed_alone_and_no_dropout_is_there_unless_asked_for(folder):
    one, same, other = (build(folder, seed).module for seed in (3, 3, 4))
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    inputs = pad(some_rows(folder), 0)
    one.train()
    assert torch.equal(one(**inputs).logits, one(**inputs).logits)
    for asked in ({"dropout": 0.5}, {"head_dropout": 0.5}):
        module = build(folder, **asked).module.train()
        assert not torch.equal(module(**inputs).logits, module(**inputs).logits)


def test_activations_computed_again_give_the_same_gradients_with_adapters_and_without(folder):
    for lora in (None, LoraSection(rank=2, dropout=0.5)):
        gradients = []
        for recomputes in (False, True):
            module = build(folder, lora=lora).module.train()
            if recomputes:
                recompute_activations(module)
            torch.manual_seed(0)
            module(**pad(some_rows(folder), 0)).logits.square().sum().backward()
            gradients.append([value.grad for value in module.parameters() if value.requires_grad])
        assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_lower_layers_can_train_with_smaller_rates(folder):
    module = build(folder, lora=LoraSection(rank=2)).module
    groups = build_parameter_groups(module, ["score.weight"], OptimizerSettings(1.0, None, 0.0, layer_decay=0.5))
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert list(list_layers(module)) == ["model.layers.0", "model.layers.1"]
    expected = {"model.layers.0": 0.25, "model.layers.1": 0.5, "score": 1.0}
    assert rates == {name: next(rate for part, rate in expected.items() if name.startswith(part)) for name in rates}


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of torch, in its own compiler
def test_compiled_layers_give_the_same_logits(llama):
    module = build(llama, lora=LoraSection(rank=2)).module.eval()
    inputs = pad(some_rows(llama), 0)
    with torch.no_grad():
        plain = module(**inputs).logits
        compile_layers(module)
        torch.testing.assert_close(module(**inputs).logits, plain, rtol=0, atol=1e-5)


def test_a_decoder_reads_the_chat_template_unless_another_is_named():
    assert RunConfig.model_validate({"model": {"kind": "decoder"}}).data.template == "chat"
    asked = {"model": {"kind": "decoder"}, "data": {"template": "joint"}}
    assert RunConfig.model_validate(asked).data == DataSection(template="joint")


def test_a_decoder_given_as_encoder_and_the_reverse_name_the_remedy(llama, tiny_model):
    for kind in ("joint", "siamese"):
        with pytest.raises(ModelError, match=rf"model\.kind={kind}, .* is a decoder \(llama\).*model\.kind=decoder"):
            build(llama, kind=kind)
    with pytest.raises(ModelError, match=r"model\.kind=decoder, .*\(bert\) is no causal.*model\.kind=joint"):
        build(tiny_model)


def test_a_model_class_that_nobody_knows_is_an_error(tmp_path, llama):
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    with pytest.raises(ModelError, match=r"model\.name=.* model_type 'no_such_model'"):
        build(tmp_path)
