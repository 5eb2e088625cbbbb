"""Run by test_exchange.py on two ranks: what DDP exchanges after each of three micro-batches."""

import sys

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pref_dist.config.schema import ParallelSection
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.parallel import start_parallel


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, values):
        return SequenceClassifierOutput(logits=self.layer(values))


def main():
    parallel = start_parallel(ParallelSection(backend="ddp", world_size=2))
    torch.manual_seed(0)
    module = Linear().double()
    groups = [{"params": list(module.parameters()), "lr": 0.0, "weight_decay": 0.0}]
    engine = parallel.build_engine(module, groups, EngineSettings("fp32", None), timeout_seconds=60)
    torch.manual_seed(1 + parallel.rank)
    own = torch.zeros(3 * 4 + 3, dtype=torch.float64)
    for is_last in (False, False, True):
        values = torch.randn(5, 4, dtype=torch.float64)
        parts = torch.autograd.grad(module(values).logits.square().sum(), list(module.parameters()))
        own += torch.cat([part.flatten() for part in parts])
        loss = engine.forward({"values": values}, is_last).square().sum()
        engine.backward(loss, is_last)
        others = parallel.gather(module.layer.weight.grad.clone())
        assert torch.equal(others[0], others[1]) == is_last, "only the last micro-batch may make the ranks agree"
    everything = sum(parallel.gather(own))
    outcome = engine.step(1.0).read()
    expected = float(everything.norm())
    assert abs(outcome.grad_norm - expected) < 1e-12 * expected, "the sum over ranks and micro-batches"
    parallel.stop()


if __name__ == "__main__":
    sys.exit(main())
