"""The head that also reads how long the texts are and how they are laid out."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig

from pref_dist.config.load import load_config
from pref_dist.config.model_section import ModelSection
from pref_dist.config.schema import DataSection
from pref_dist.data.batches import build_batch
from pref_dist.data.encode import load_tokenizer
from pref_dist.data.layout import BatchLayout
from pref_dist.data.orders import build_swap_frame
from pref_dist.data.plan import MicroBatch
from pref_dist.data.rows import Turn
from pref_dist.data.surface import SURFACE_FEATURES, USUAL, count_marks, measure_surface
from pref_dist.errors import ConfigError
from pref_dist.models.build import build_model
from tests.data.test_orders import read_rows

SWAPPED = [1, 0, 2]
KINDS = {
    "cls": {"pooling": "cls"},
    "segments, two layers": {"pooling": "segments", "head": "two_layer"},
    "concat": {"kind": "siamese", "head": "concat"},
    "antisymmetric": {"kind": "siamese"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    AutoModel.from_config(config).save_pretrained(path)
    return path


def build(folder, **settings):
    section = ModelSection(name=str(folder), surface_features=True, **settings)
    module = build_model(section, folder, max_tokens=128, vocab_size=400, seed=3).module.eval()
    with torch.no_grad():
        for parameter in module.head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    return module


@pytest.mark.parametrize("name", KINDS)
def test_two_rows_that_differ_in_what_was_cut_get_other_logits(folder, name):
    module = build(folder, **KINDS[name])
    inputs = {"input_ids": torch.arange(5, 17).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    if module.__class__.__name__ == "SiameseClassifier":
        inputs["sides"], surface = torch.tensor([[0, 1]]), torch.arange(28.0).reshape(2, 2, 7)
    else:
        surface = torch.arange(42.0).reshape(2, 3, 7)
    if KINDS[name].get("pooling") == "segments":
        inputs["segment_ends"] = torch.tensor([[2, 4, 6]] * 2)
    with torch.no_grad():
        logits = [module(**inputs, surface=shown).logits for shown in (surface, surface, surface.sqrt())]
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-2


@pytest.mark.parametrize("template", ["joint", "siamese"])
def test_the_surface_is_that_before_the_cut_and_swaps_with_the_texts(tiny_model, template):
    tokenizer = load_tokenizer(tiny_model)
    rows = read_rows(tokenizer, template)
    rows.surface = rows.encoded.surface
    data = DataSection(max_tokens=120, template=template)
    num_sequences = 2 if template == "siamese" else 1
    layout = BatchLayout(0, num_sequences=num_sequences, has_surface=True, swap=build_swap_frame(tokenizer, data))
    places = np.array([1, 1])
    batch = build_batch(rows, MicroBatch(0, places, np.array([False, True])), layout)
    prompt, a, b = torch.from_numpy(rows.surface[1]).reshape(3, len(SURFACE_FEATURES))
    found = batch.inputs["surface"]
    if template == "joint":
        torch.testing.assert_close(found, torch.stack((torch.stack((prompt, a, b)), torch.stack((prompt, b, a)))))
    else:
        torch.testing.assert_close(found, torch.stack((torch.stack((prompt, a)), torch.stack((prompt, b)))))
        assert batch.inputs["sides"].tolist() == [[0, 1], [1, 0]]
    spare = build_batch(rows, MicroBatch(0, np.empty(0, np.int64)), layout)
    assert spare.inputs["surface"].shape == (num_sequences, *found.shape[1:])


def test_marks_are_counted_over_all_turns():
    text = "# Title\n\n- one\n  * two\n12. three\n**bold** and 3.5\n```\ncode\n```"
    counts = dict(zip(SURFACE_FEATURES, count_marks(text), strict=True))
    assert counts == {
        "characters": len(text),
        "line_ends": 8,
        "list_items": 3,
        "bold_marks": 2,
        "digits": 4,
        "code_fences": 2,
        "number_signs": 1,
    }
    turns = [Turn("p", "1", "x" * 255), Turn("q", "2\n3", "")]
    surface = measure_surface([turns]).reshape(3, -1) + USUAL
    assert 2 ** surface[1, 0] - 1 == pytest.approx(5)  # characters of both turns and the line end between them
    assert 2 ** surface[1, 4] - 1 == pytest.approx(3)  # digits
    assert 2 ** surface[2, 1] - 1 == pytest.approx(1)
    assert count_marks("\ud800 1")[4] == 1, "half of a surrogate pair"


def test_position_bias_stays_zero(folder):
    module = build(folder, kind="siamese", weight_dtype="fp64")
    ids, mask = torch.arange(5, 17).reshape(2, 6), torch.ones(2, 6, dtype=torch.int64)
    surface, sides = torch.arange(28.0).reshape(2, 2, 7).sqrt(), torch.tensor([[0, 1]])
    with torch.no_grad():
        given = module(ids, mask, sides, surface).logits
        exchanged = module(ids.flip(0), mask, sides, surface.flip(0)).logits
    torch.testing.assert_close(given[:, SWAPPED], exchanged, rtol=0, atol=1e-12)


def test_a_decoder_has_no_place_for_them():
    with pytest.raises(ConfigError, match="surface_features=true is not for kind=decoder"):
        load_config(None, ["model.kind=decoder", "model.surface_features=true"])
