"""Run by test_exchange.py on two ranks: what is left of a group whose engine outlives it."""

import argparse
from pathlib import Path

import torch

from pref_dist.config.schema import ParallelSection
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.parallel import start_parallel
from tests.ranks.exchange_ranks import Linear


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--outlive", action="store_true", help="keep the engine until the end")
    options = parser.parse_args()
    parallel = start_parallel(ParallelSection(backend="ddp", world_size=2, timeout_seconds=30))
    engine = take_step(parallel)
    if not options.outlive:
        del engine
    assert "pt_gloo_runloop" in names_of_threads(), "gloo's threads have another name now"
    parallel.stop()
    assert "pt_gloo_runloop" not in names_of_threads(), f"a thread of gloo is left: {names_of_threads()}"


def take_step(parallel):
    module = Linear()
    groups = [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    engine = parallel.build_engine(module, groups, EngineSettings("fp32", 1.0), timeout_seconds=30)
    engine.backward(engine.forward({"values": torch.ones(5, 4)}).sum(), is_last=True)
    engine.step(1.0).read()
    parallel.gather(torch.ones(3))
    return engine


def names_of_threads():
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


if __name__ == "__main__":
    main()
