"""A second stage on two ranks starts from the same weights as in one process, on DDP and on ZeRO-3."""

import pytest

from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, read_losses, read_weights
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]

FIRST = {"max_steps": 3, "learning_rate": 5e-3}
SECOND = {"max_steps": 3, "save_every_steps": 1, "learning_rate": 1e-3, "keep_last": 5, "micro_batch_multiple": 2}
KINDS = {"same": {"pooling": "segments"}, "other": {"kind": "siamese"}, "default": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    return TinyRuns(tmp_path_factory.mktemp("stages"), sample_dir / "train.csv", tiny_model, cache_dir)


def write_second(runs, name, kind):
    run_yaml, run_dir = runs.write(name, train=SECOND, model={**KINDS[kind], "name": str(runs.folder / "first")})
    return {"config": str(run_yaml)}, run_dir


@pytest.fixture(scope="module")
def of_one_process(runs):
    run_yaml, _ = runs.write("first", train=FIRST, model=KINDS["same"])
    seconds = {kind: write_second(runs, f"single_{kind}", kind) for kind in KINDS}
    run_jobs("single", 1, [{"config": str(run_yaml)}, *(job for job, _ in seconds.values())], runs.folder)
    return {kind: run_dir for kind, (_, run_dir) in seconds.items()}


@pytest.mark.parametrize("backend", ["ddp", "zero3"])
def test_two_ranks_start_a_second_stage_as_one_process_does(runs, of_one_process, backend):
    seconds = {kind: write_second(runs, f"{backend}_{kind}", kind) for kind in KINDS}
    run_jobs(backend, 2, [job for job, _ in seconds.values()], runs.folder)
    for kind, (_, run_dir) in seconds.items():
        expected, found = read_losses(of_one_process[kind]), read_losses(run_dir)
        assert abs(found[0] - expected[0]) < 1e-6, kind  # the start
        assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) < 1e-5
        assert largest_difference(read_weights(run_dir), read_weights(of_one_process[kind])) < 1e-4
