"""What a model starts from: exported folders, heads that fit or do not, and folders that are not whole."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, ResNetConfig

from pref_dist.config.load import build_config
from pref_dist.errors import ModelError
from pref_dist.export import write_weights
from pref_dist.files import write_json
from pref_dist.labels import CLASSES
from pref_dist.models.build import build_model
from pref_dist.models.recipe import RECIPE, describe_recipe
from tests.models.test_build import FAMILIES
from tests.tiny_model import write_random

KINDS = {
    "cls": {},
    "mean": {"pooling": "mean"},
    "last": {"pooling": "last"},
    "segments": {"pooling": "segments"},
    "cls_two_layer": {"head": "two_layer"},
    "segments_two_layer": {"pooling": "segments", "head": "two_layer"},
    "surface": {"pooling": "mean", "surface_features": True},
    "concat": {"kind": "siamese", "head": "concat"},
    "difference": {"kind": "siamese", "head": "difference"},
    "antisymmetric": {"kind": "siamese"},
}


def settings_of(folder, **settings):
    return build_config({"model": {"name": str(folder), **settings}}, "a test")


def build(folder, seed=0, **settings):
    return build_model(settings_of(folder, **settings).model, folder, max_tokens=128, vocab_size=100, seed=seed)


def weights(built):
    return dict(built.module.named_parameters())


def are_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def move_off(built):
    """Change every weight, as training does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in built.module.parameters():
            value.add_(torch.randn(value.shape, generator=generator, dtype=value.dtype), alpha=0.01)
    return built


def write_export(folder, built, **settings):
    folder.mkdir()
    write_weights(folder, built.module)
    write_json(folder / RECIPE, describe_recipe(settings_of(folder, **settings), 1, (0.5, 0.25, 0.25)))
    return folder


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    return write_random(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    AutoModel.from_config(FAMILIES["bert"]).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["cls", "mean", "segments_two_layer", "antisymmetric"])
def test_an_exported_folder_gives_every_weight_back_whatever_the_family(family, tmp_path, kind):
    check_round_trip(family, tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_folder_gives_every_weight_back_whatever_the_kind(bert, tmp_path, kind):
    check_round_trip(bert, tmp_path, kind)


def check_round_trip(folder, tmp_path, kind):
    built = move_off(build(folder, **KINDS[kind]))
    again = build(write_export(tmp_path / "out", built, **KINDS[kind]), seed=9, **KINDS[kind])
    assert are_equal(weights(built), weights(again))
    assert again.new_names == ()
    assert again.notes == ("all weights of out, the head's too",)


def test_the_default_head_is_an_ordinary_classifier_of_transformers(family, tmp_path):
    built = move_off(build(family))
    out = write_export(tmp_path / "out", built)
    theirs = AutoModelForSequenceClassification.from_pretrained(out).eval()
    ids, mask = torch.arange(5, 23).reshape(2, 9), torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    with torch.no_grad():
        ours = built.module.eval()(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits, ours, rtol=0, atol=1e-6)
    assert theirs.config.id2label == {0: "A", 1: "B", 2: "tie"}
    assert dict(theirs.named_parameters()).keys() == weights(built).keys()


@pytest.mark.parametrize("kind", ["segments", "antisymmetric"])
def test_transformers_finds_the_encoder_of_every_other_kind_under_its_own_names(family, tmp_path, kind):
    built = move_off(build(family, **KINDS[kind]))
    out = write_export(tmp_path / "out", built, **KINDS[kind])
    theirs, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not [name for name in report["missing_keys"] if "pooler" not in name]
    ours = dict(built.module.encoder.named_parameters())
    assert are_equal(ours, {name: value for name, value in theirs.named_parameters() if name in ours})
    assert json.loads((out / "config.json").read_text())["architectures"] == [type(theirs).__name__]


@pytest.mark.parametrize(
    ("first", "second"),
    [("cls", "segments"), ("mean", "cls"), ("cls_two_layer", "cls"), ("antisymmetric", "cls"), ("mean", "surface")],
)
def test_another_kind_takes_the_encoder_alone_and_a_new_head(family, tmp_path, first, second):
    built = move_off(build(family, **KINDS[first]))
    out = write_export(tmp_path / "out", built, **KINDS[first])
    other = build(out, seed=3, **KINDS[second])
    assert set(other.head_names) <= set(other.new_names)
    old, new = weights(built), weights(other)
    kept = new.keys() - set(other.new_names)
    assert all(torch.equal(old[name], new[name]) for name in kept)
    assert "with a new head" in other.notes[0]
    # What starts at random is what the encoder's own folder would have given.
    encoder = tmp_path / "encoder"
    built.module.base_model.save_pretrained(encoder) if first == "cls" else built.module.encoder.save_pretrained(
        encoder
    )
    assert are_equal(new, weights(build(encoder, seed=3, **KINDS[second])))


@pytest.mark.parametrize("kind", ["cls", "mean", "antisymmetric"])
def test_new_head_starts_the_head_anew_and_keeps_the_encoder(family, tmp_path, kind):
    built = move_off(build(family, **KINDS[kind]))
    out = write_export(tmp_path / "out", built, **KINDS[kind])
    other = build(out, seed=3, new_head=True, **KINDS[kind])
    old, new = weights(built), weights(other)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert changed <= set(other.head_names) == set(other.new_names)
    assert other.notes == ("the encoder of out with a new head (model.new_head)",)


@pytest.mark.parametrize("num_labels", [2, 5])
def test_a_head_with_other_classes_is_refused_and_new_head_is_the_remedy(family, tmp_path, num_labels):
    model = AutoModel.from_pretrained(family)
    names = {place: f"star {place}" for place in range(num_labels)}
    config = type(model.config).from_pretrained(family, num_labels=num_labels, id2label=names)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"a head for {num_labels} classes \(star 0, star 1.*model\.new_head=true"):
        build(tmp_path)
    built = build(tmp_path, new_head=True)
    assert set(built.head_names) == set(built.new_names)
    # A head of ours never reads theirs.
    assert build(tmp_path, pooling="mean").new_names == build(family, pooling="mean").new_names


def test_a_head_of_three_other_classes_is_taken_with_a_warning(tmp_path):
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    config = BertConfig(**{**FAMILIES["bert"].to_dict(), "id2label": names, "label2id": None})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    built = build(tmp_path)
    assert built.new_names == ()
    assert "entailment, neutral, contradiction" in built.notes[0]
    assert "model.new_head=true" in built.notes[0]
    assert built.module.config.id2label == dict(enumerate(CLASSES))


def test_a_config_of_an_unknown_model_names_the_remedy(bert, tmp_path):
    out = shutil.copytree(bert, tmp_path / "unknown")
    values = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**values, "model_type": "mystery", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(ModelError, match=r"model_type 'mystery'.*Code that a folder carries is never run.*deberta-v2"):
        build(out)


def test_an_architecture_without_a_classifier_names_the_remedy(tmp_path):
    ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"resnet.*no sequence classifier.*Use a text encoder"):
        build(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[]", "{}"])
def test_a_damaged_config_names_the_file_and_the_remedy(bert, tmp_path, text):
    out = shutil.copytree(bert, tmp_path / "damaged")
    (out / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json (is damaged|names no model_type).*download"):
        build(out)


def test_values_in_a_config_that_cannot_be_are_an_error_with_the_file(bert, tmp_path):
    out = shutil.copytree(bert, tmp_path / "damaged")
    values = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**values, "hidden_size": "wide"}))
    with pytest.raises(ModelError, match=r"damaged"):
        build(out)


def test_missing_weights_name_the_remedy(bert, tmp_path):
    out = shutil.copytree(bert, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelError, match=r"no model\.safetensors.*model\.from_scratch=true"):
        build(out)


def test_pickles_are_refused_with_the_way_to_safetensors(bert, tmp_path):
    out = shutil.copytree(bert, tmp_path / "pickles", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(AutoModel.from_pretrained(bert).state_dict(), out / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickles alone \(pytorch_model\.bin\).*save_pretrained"):
        build(out)


def test_a_missing_shard_is_named(bert, tmp_path):
    AutoModel.from_pretrained(bert).save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"lacks 1 of .*{shard.name}.*again"):
        build(tmp_path)


def test_a_damaged_weight_file_is_an_error_that_names_it(bert, tmp_path):
    out = shutil.copytree(bert, tmp_path / "damaged")
    (out / "model.safetensors").write_bytes(b"123")
    with pytest.raises(ModelError, match=r"damaged"):
        build(out)


def test_a_recipe_of_another_version_names_both(bert, tmp_path):
    out = write_export(tmp_path / "out", build(bert))
    values = json.loads((out / RECIPE).read_text())
    write_json(out / RECIPE, {**values, "format_version": 99, "pref_dist": "9.0"})
    with pytest.raises(ModelError, match=r"format 99, written by pref_dist 9\.0"):
        build(out)
    write_json(out / RECIPE, {**values, "model": {**values["model"], "kind": "oracle"}})
    with pytest.raises(ModelError, match=r"model\.kind"):
        build(out)
    write_json(out / RECIPE, {**values, "format_version": 1, "class_shares": None, "evaluate": None})
    build(out)  # an export of the first format is whole but for what `predict` needs
    damaged = [json.dumps({name: value for name, value in values.items() if name != "class_shares"}),
               json.dumps({**values, "class_shares": [1.0]}), "[]", "{"]  # fmt: skip
    for content in damaged:
        (out / RECIPE).write_text(content, encoding="utf-8")
        with pytest.raises(ModelError, match=r"pref_dist\.json is damaged"):
            build(out)
