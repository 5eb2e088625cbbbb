"""A step on a GPU: nothing in it waits for the device, and a gradient that is not finite changes nothing."""

import sys
import warnings
from contextlib import closing

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pref_dist.config.load import load_config
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import stand_alone
from pref_dist.runtime.pipeline import HostCopy, gather_numbers, pin
from pref_dist.runtime.precision import forbid_tf32
from pref_dist.runtime.replicated import ReplicatedEngine
from pref_dist.train.assemble import TrainOptions, assemble, plan_rows
from pref_dist.train.feed import feed_steps
from pref_dist.train.resume import settle_config
from pref_dist.train.step import take_step as train_step

SIZE = 256
PROTOTYPE = "ignore:Synchronization debug mode is a prototype"  # torch warns of what finds the waits


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, 3)

    def forward(self, values: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.layer(values))


def build(gpu: torch.device, precision: str) -> ReplicatedEngine:
    torch.manual_seed(0)
    module = Classifier().to(gpu)
    groups = [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.1}]
    return ReplicatedEngine(module, module, groups, EngineSettings(precision, 1.0), gpu, 1)  # type: ignore[arg-type]


def take_step(engine: ReplicatedEngine, values: torch.Tensor, factor: float = 1.0):
    engine.backward(engine.forward({"values": values}).square().sum() * factor, is_last=True)
    return engine.step(1.0)


@pytest.mark.filterwarnings(PROTOTYPE)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_never_waits_for_the_device(gpu, precision):
    engine, values = build(gpu, precision), torch.ones(8, SIZE, device=gpu)
    take_step(engine, values)  # what is made at the first step alone
    on_host = pin(torch.ones(8, SIZE), gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        queued = take_step(engine, on_host.to(gpu, non_blocking=True))
        numbers = gather_numbers((queued.grad_norm, True, 0.5), gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not queued.read().skipped
    assert numbers.tolist()[1:] == [1.0, 0.5]


@pytest.mark.filterwarnings(PROTOTYPE)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_whole_step_of_a_run_never_waits_either(gpu, write_run, precision, dropout):
    settings = {"train": {"precision": precision, "max_steps": 3}, "model": {"dropout": dropout}}
    run_yaml, _ = write_run("steps", **settings)
    parallel = stand_alone(gpu)
    config = settle_config(load_config(run_yaml), None, parallel, False)
    rows = plan_rows(config, parallel, None)
    run = assemble(config, rows, None, parallel, Speaker(False, sys.stderr), TrainOptions())
    run.engine.train()
    with closing(feed_steps(run)) as steps:
        assert not train_step(run, next(steps)).queued.read().skipped
        torch.cuda.set_sync_debug_mode("error")
        try:
            taken = train_step(run, next(steps))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not taken.queued.read().skipped


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_the_next_one_does(gpu, precision):
    engine, values = build(gpu, precision), torch.ones(8, SIZE, device=gpu)
    assert not take_step(engine, values, 1e-3).read().skipped
    before = dict(engine.read_state())
    assert take_step(engine, values, float("nan")).read().skipped
    for name, state in engine.read_state():
        assert torch.equal(state.value, before[name].value)
        assert torch.equal(state.exp_avg, before[name].exp_avg)
        assert state.step == before[name].step
    assert not take_step(engine, values, 1e-3).read().skipped
    assert next(engine.read_state())[1].step == 2


def test_fp32_products_keep_all_their_bits(gpu):
    torch.set_float32_matmul_precision("high")  # as a container may ask for
    forbid_tf32()
    torch.manual_seed(0)
    one, other = torch.randn(512, 512, device=gpu), torch.randn(512, 512, device=gpu)
    exact = one.double() @ other.double()
    assert float(((one @ other) - exact).abs().max()) < 1e-3, "TF32 would be off by about 3e-2"


def test_a_copy_to_the_host_is_what_was_there_when_it_was_asked_for(gpu):
    values = torch.arange(1000.0, device=gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = HostCopy(values)
    values.zero_()
    assert copy.read().tolist() == list(range(1000))
