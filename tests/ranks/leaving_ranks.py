"""Run by test_exchange.py on two ranks: what is left of a group whose engine outlives it."""

import gc
from pathlib import Path

import torch

from pref_dist.config.schema import ParallelSection
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.parallel import start_parallel
from tests.ranks.exchange_ranks import Linear


def meet_and_leave():
    parallel = start_parallel(ParallelSection(backend="ddp", world_size=2, timeout_seconds=30))
    module = Linear()
    groups = [{"params": list(module.parameters()), "lr": 0.0, "weight_decay": 0.0}]
    engine = parallel.build_engine(module, groups, EngineSettings("fp32", None), timeout_seconds=30)
    engine.backward(engine.forward({"values": torch.ones(5, 4)}).sum(), is_last=True)
    engine.step(1.0)
    parallel.gather(torch.ones(3))
    parallel.stop()


def names_of_threads():
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


if __name__ == "__main__":
    meet_and_leave()
    gc.collect()
    assert "pt_gloo_runloop" in names_of_threads(), "somebody has waited for gloo's thread, which may wait for Python's"
