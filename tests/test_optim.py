import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
)

from pref_dist.errors import ConfigError
from pref_dist.models.build import find_head_names
from pref_dist.optim import OptimizerSettings, build_parameter_groups, create_moments, learning_rate_factor

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
# Part of a parameter's name -> its share of the rate, with layer_decay 0.5.
SHARES = {
    "bert": (
        BertConfig(**SMALL),
        {
            "bert.embeddings.": 0.125,
            "bert.encoder.layer.0.": 0.25,
            "bert.encoder.layer.1.": 0.5,
            "bert.pooler.": 1.0,
            "classifier.": 10.0,
        },
    ),
    "deberta-v2": (
        DebertaV2Config(
            **SMALL,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
            pooler_hidden_size=16,
        ),
        {
            "deberta.embeddings.": 0.125,
            "deberta.encoder.rel_embeddings.": 0.125,
            "deberta.encoder.LayerNorm.": 0.125,
            "deberta.encoder.conv.": 0.125,
            "deberta.encoder.layer.0.": 0.25,
            "deberta.encoder.layer.1.": 0.5,
            "pooler.": 10.0,
            "classifier.": 10.0,
        },
    ),
    "distilbert": (
        DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=8),
        {
            "distilbert.embeddings.": 0.125,
            "distilbert.transformer.layer.0.": 0.25,
            "distilbert.transformer.layer.1.": 0.5,
            "pre_classifier.": 10.0,
            "classifier.": 10.0,
        },
    ),
    "modernbert": (
        ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
        {
            "model.embeddings.": 0.125,
            "model.layers.0.": 0.25,
            "model.layers.1.": 0.5,
            "model.final_norm.": 1.0,
            "head.": 10.0,
            "classifier.": 10.0,
        },
    ),
}


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 3)


def test_biases_and_norms_are_not_decayed_and_the_head_has_its_own_rate():
    model = TwoParts()
    groups = build_parameter_groups(model, ["head.weight", "head.bias"], OptimizerSettings(1e-5, 1e-3, 0.1))
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found == {
        "body.0.weight": (1e-5, 0.1),
        "body.0.bias": (1e-5, 0.0),
        "body.1.weight": (1e-5, 0.0),
        "body.1.bias": (1e-5, 0.0),
        "head.weight": (1e-3, 0.1),
        "head.bias": (1e-3, 0.0),
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_to_the_peak_and_falls_towards_0_and_no_step_is_lost(schedule):
    factors = [learning_rate_factor(step, 100, 0.1, schedule) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert all(factor > 0 for factor in factors)
    assert factors[-1] < 0.02


def test_linear_decay_is_a_straight_line_and_cosine_passes_the_middle():
    assert learning_rate_factor(55, 100, 0.1, "linear") == pytest.approx(0.5)
    assert learning_rate_factor(55, 100, 0.1, "cosine") == pytest.approx(0.5)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert learning_rate_factor(0, 10, 0.0, "linear") == 1.0


def test_moments_made_beforehand_change_no_bit_and_the_first_step_makes_no_more():
    weights = []
    for is_eager in (False, True):
        torch.manual_seed(0)
        model = TwoParts()
        model.body[0].bias.requires_grad_(False)
        groups = build_parameter_groups(model, ["head.weight"], OptimizerSettings(1e-2, None, 0.1))
        optimizer = torch.optim.AdamW(groups, fused=True)
        if is_eager:
            create_moments(optimizer)
        made = {id(value) for state in optimizer.state.values() for value in state.values()}
        for _ in range(3):
            model.head(model.body(torch.ones(4, 2))).square().sum().backward()
            optimizer.step()
        left = {id(value) for state in optimizer.state.values() for value in state.values()}
        assert (made == left) == is_eager
        weights.append([value.detach().clone() for value in model.parameters()])
    assert all(torch.equal(lazy, eager) for lazy, eager in zip(*weights, strict=True))


@pytest.mark.parametrize("family", SHARES)
def test_the_lower_a_layer_the_smaller_its_rate_and_embeddings_have_the_smallest(family):
    config, shares = SHARES[family]
    model = AutoModelForSequenceClassification.from_config(config)
    settings = OptimizerSettings(1e-3, 1e-2, 0.1, layer_decay=0.5)
    groups = build_parameter_groups(model, find_head_names(model), settings)
    found = {name: group["lr"] for group in groups for name in group["names"]}
    expected = {
        name: next(share for part, share in shares.items() if name.startswith(part)) * 1e-3
        for name, _ in model.named_parameters()
    }
    assert found == pytest.approx(expected)
    assert all(any(name.startswith(part) for name in found) for part in shares)


def test_layer_decay_without_layers_is_an_error():
    with pytest.raises(ConfigError, match=r"train\.layer_decay=0\.9, but TwoParts has no list of layers"):
        build_parameter_groups(TwoParts(), ["head.weight", "head.bias"], OptimizerSettings(1e-3, None, 0.1, 0.9))
