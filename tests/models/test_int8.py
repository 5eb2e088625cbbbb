"""Linear layers in 8-bit integers: near to what they stand for, and each token by itself."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, DebertaV2Config

from pref_dist.config.model_section import ModelSection
from pref_dist.models.build import build_model
from pref_dist.models.int8 import Int8Linear, quantize_layers
from tests.tiny_model import write_random

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
FAMILIES = {
    "bert": BertConfig(**SMALL),
    "deberta-v2": DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type="p2c|c2p", share_att_key=True, pooler_hidden_size=32,
        pooler_dropout=0.0,
    ),
}  # fmt: skip


def draw_linear(num_inputs=96, num_outputs=40, bias=True):
    torch.manual_seed(1)
    return nn.Linear(num_inputs, num_outputs, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (7, 96), (3, 5, 96)])
def test_outputs_are_near_those_of_the_linear_layer(shape, bias):
    linear = draw_linear(bias=bias)
    inputs = torch.randn(shape)
    expected, found = linear(inputs), Int8Linear(linear)(inputs)
    assert found.shape == expected.shape
    # Both factors are rounded to a 254th of their largest values: .4 % each, less in a sum of 96.
    assert (found - expected).norm() < 0.012 * expected.norm()


def test_what_has_255_values_already_is_multiplied_exactly():
    linear = draw_linear(8, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.randint(-126, 127, (4, 8)))
        linear.weight[:, 0] = 127
    inputs = torch.randint(-126, 127, (3, 8)).float()
    inputs[:, 1] = -127
    torch.testing.assert_close(Int8Linear(linear)(inputs), linear(inputs), rtol=1e-6, atol=0)


def test_a_tokens_output_does_not_depend_on_the_tokens_beside_it():
    linear = Int8Linear(draw_linear())
    tokens = torch.randn(33, 96) * torch.logspace(-3, 3, 33).unsqueeze(1)
    together = linear(tokens)
    assert all(torch.equal(linear(tokens[place : place + 1])[0], together[place]) for place in range(33))


def test_a_token_of_zeros_gives_the_bias():
    linear = draw_linear()
    assert torch.equal(Int8Linear(linear)(torch.zeros(2, 96))[1], linear.bias)


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize(("family", "num_linear"), [("bert", 6), ("deberta-v2", 6)])
def test_all_linear_layers_of_the_layers_are_replaced_and_nothing_else(tmp_path, family, num_linear, dtype):
    write_random(FAMILIES[family], tmp_path)
    module = build_model(ModelSection(name=str(tmp_path), weight_dtype=dtype), tmp_path, 64, 50, seed=1).module.eval()
    ids = torch.randint(0, 50, (3, 20))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        before = module(**inputs).logits
        assert quantize_layers(module) == 2 * num_linear
        after = module(**inputs).logits
    left = [name.split(".")[-1] for name, part in module.named_modules() if type(part) is nn.Linear]
    assert left == ["dense", "classifier"], "the pooler's and the head"
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, before, rtol=0, atol=0.02)
