"""The engine of one process, where what it must not do can be looked at."""

import pytest
import torch
from torch import nn

from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.precision import forbid_tf32
from pref_dist.runtime.replicated import ReplicatedEngine


def build(precision="fp32", clip_norm=None):
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    groups = [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.1}]
    return module, ReplicatedEngine(
        module, module, groups, EngineSettings(precision, clip_norm), torch.device("cpu"), 1
    )


def take_step(module, engine, factor=1.0):
    engine.backward(module(torch.ones(2, 4)).sum() * factor, is_last=True)
    return engine.step(1.0).read()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_no_weight_and_no_moment(poison):
    module, engine = build()
    take_step(module, engine)
    before = dict(engine.read_state())
    assert take_step(module, engine, poison).skipped
    for name, state in engine.read_state():
        assert torch.equal(state.value, before[name].value)
        assert torch.equal(state.exp_avg, before[name].exp_avg)
        assert torch.equal(state.exp_avg_sq, before[name].exp_avg_sq)
        assert state.step == before[name].step
    assert not take_step(module, engine).skipped


def test_the_norm_is_the_one_before_clipping():
    module, engine = build(clip_norm=0.01)
    assert take_step(module, engine).grad_norm == pytest.approx((3 * 4 * 4 + 3 * 4) ** 0.5)


def test_the_loss_scale_of_a_step_that_was_skipped_is_halved_and_nothing_else_changes():
    module, engine = build("fp16")
    assert not take_step(module, engine, 1e-3).skipped
    before = dict(engine.read_state())
    scale = engine.read_loss_scale().scale
    assert take_step(module, engine, float("inf")).skipped
    assert engine.read_loss_scale().scale == scale / 2
    for name, state in engine.read_state():
        assert torch.equal(state.value, before[name].value)
        assert torch.equal(state.exp_avg_sq, before[name].exp_avg_sq)
        assert state.step == before[name].step == 1
    assert not take_step(module, engine, 1e-3).skipped


def test_products_are_whole_fp32_whatever_the_environment_asks_for():
    torch.set_float32_matmul_precision("high")
    forbid_tf32()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
