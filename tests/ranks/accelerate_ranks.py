"""What one rank does in test_accelerate_configs.py: one step of a tiny model, under what the launcher set up."""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, features: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.linear(features))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from pref_dist.cli.program import leave
    from pref_dist.config.schema import ParallelSection
    from pref_dist.runtime.engine import EngineSettings
    from pref_dist.runtime.parallel import start_parallel

    parallel = start_parallel(ParallelSection(timeout_seconds=60))
    module = Tiny()
    groups = [{"params": list(module.parameters()), "names": ["weight", "bias"], "lr": 0.1, "weight_decay": 0.0}]
    engine = parallel.build_engine(module, groups, EngineSettings("fp32", 1.0), 60)
    logits = engine.forward({"features": torch.ones(2, 4) * (parallel.rank + 1)})
    engine.backward(logits.square().sum(), is_last=True)
    outcome = engine.step(1.0).read()
    norm = sum(float(state.value.square().sum()) for _, state in engine.read_state())
    found = engine.describe() | {"grad_norm": outcome.grad_norm, "square_norm": norm}
    (arguments.out / f"rank_{parallel.rank}.json").write_text(json.dumps(found))
    parallel.stop()
    # As the program does: DeepSpeed and FSDP2 keep groups of their own, whose threads may abort a process that ends
    # in Python's orderly way.
    leave(0, told=0)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
