import pytest
import torch
from torch import nn

from pref_dist.optim import OptimizerSettings, build_parameter_groups, create_moments, learning_rate_factor


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
