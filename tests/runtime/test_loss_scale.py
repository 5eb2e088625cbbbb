"""runtime/loss_scale.py: the same scale as torch's GradScaler, step by step."""

import pytest
import torch

from pref_dist.runtime.engine import LossScale
from pref_dist.runtime.loss_scale import DynamicLossScale

OVERFLOWS = [False, False, True, False, False, False, False, True, True, False, False, False, False, False, False]


def take_step(scale: DynamicLossScale, overflow: bool) -> LossScale:
    scale.update_scale(overflow)
    scale.grow_if_due()
    return scale.read()


def steps_of_torch(growth_interval: int) -> list[LossScale]:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=growth_interval)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    found = []
    for overflow in OVERFLOWS:
        scaler.scale(weight.sum()).backward()
        assert weight.grad is not None
        weight.grad.mul_(float("inf") if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        state = scaler.state_dict()
        found.append(LossScale(state["scale"], state["_growth_tracker"]))
    return found


@pytest.mark.parametrize("growth_interval", [1, 2, 3, 2000])
def test_it_grows_and_shrinks_as_grad_scaler_does(growth_interval: int) -> None:
    scale = DynamicLossScale(64.0, growth_interval, world_size=1)
    assert [take_step(scale, overflow) for overflow in OVERFLOWS] == steps_of_torch(growth_interval)


def test_it_does_not_change_between_the_norm_and_the_division_of_a_clean_step() -> None:
    scale = DynamicLossScale(64.0, 1, world_size=1)
    scale.update_scale(False)
    assert scale.loss_scale == 64.0


@pytest.mark.parametrize("border", range(len(OVERFLOWS)))
def test_a_saved_scale_goes_on_as_if_nothing_had_happened(border: int) -> None:
    one, other = DynamicLossScale(64.0, 3, world_size=1), DynamicLossScale(1.0, 3, world_size=1)
    for overflow in OVERFLOWS[:border]:
        take_step(one, overflow)
    other.write(one.read())
    assert [take_step(one, late) for late in OVERFLOWS[border:]] == [
        take_step(other, late) for late in OVERFLOWS[border:]
    ]
