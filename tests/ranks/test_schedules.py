"""A rate that waits for evaluations, and a run that ends by them: alike on all ranks, and through stops and kills."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pref_dist.runtime.checkpoint import list_steps
from tests.faults.fault import Fault
from tests.faults.starts import start_verb
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, read_losses, read_weights, run_verb
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

# Far too high a rate: the evaluation of step BEST is the best by .05, those of steps 6, 8 and 10 are not better.
BEST, REDUCED, LAST, PLANNED = 4, 6, 10, 16
PEAK = 1e-2
TRAIN = {
    "schedule": "plateau", "learning_rate": PEAK, "warmup_fraction": 0.0, "max_steps": PLANNED,
    "early_stop_patience": 3, "save_every_steps": 1, "keep_last": 100,
}  # fmt: skip
SETTINGS = {"run": {"seed": 8}, "model": {"dropout": 0.1}, "evaluate": {"every_steps": 2}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    return TinyRuns(tmp_path_factory.mktemp("schedules"), sample_dir / "train.csv", tiny_model, cache_dir)


@pytest.fixture(scope="module")
def write(runs):
    """Return a function that writes a run of these settings; `train` changes that section."""

    def write_one(name, **train):
        return runs.write(name, **SETTINGS, train=TRAIN | train)

    return write_one


@pytest.fixture(scope="module")
def whole(runs, write):
    """Runs that nothing happened to: {(back-end, ranks, early_stop_patience): run folder}."""
    folders = {}
    for backend, world_size in (("single", 1), ("ddp", 2)):
        written = {
            patience: write(f"{backend}_{patience}", early_stop_patience=patience)
            for patience in (3, *((None,) if world_size == 1 else ()))
        }
        run_jobs(backend, world_size, [{"config": str(run_yaml)} for run_yaml, _ in written.values()], runs.folder)
        folders |= {(backend, world_size, patience): run_dir for patience, (_, run_dir) in written.items()}
    return folders


def read(run_dir, name):
    return json.loads((run_dir / name).read_text(encoding="utf-8"))


def read_lines(run_dir):
    """The lines of metrics.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def read_tensors(run_dir):
    """Weights and moments of the last checkpoint."""
    folder = run_dir / f"checkpoints/step_{list_steps(run_dir / 'checkpoints')[-1]:06d}"
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def assert_same_end(found, expected):
    """Every bit: weights, moments, losses, rates, evaluations, the best step, its logits, and why it ended."""
    ours, theirs = read_tensors(found), read_tensors(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert read_lines(found) == read_lines(expected)
    assert read(found, "state.json") == read(expected, "state.json")
    for name in ("best.json", "valid_logits.parquet"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2)])
def test_a_run_ends_early_at_the_same_step_on_any_number_of_ranks_with_its_best_step(whole, backend, world_size):
    run_dir = whole[backend, world_size, 3]
    assert list_steps(run_dir / "checkpoints")[-1] == len(read_losses(run_dir)) == LAST
    state, best = read(run_dir, "state.json"), read(run_dir, "best.json")
    assert (state["state"], state["step"], best["step"]) == ("finished", LAST, BEST)
    assert state["reason"] == (
        f"early stop: 3 evaluations in a row were not better than {best['log_loss']:.4f} of step {BEST}, "
        "train.early_stop_patience=3"
    )
    scores = {line["step"]: line["log_loss"] for line in read_lines(run_dir) if "log_loss" in line}
    assert min(scores, key=scores.get) == BEST
    metrics = read(run_dir, "metrics.json")
    assert [metrics[key] for key in ("step", "log_loss")] == [BEST, scores[BEST]]
    weights = read_weights(run_dir, BEST), read_weights(run_dir)
    assert largest_difference(*weights) > 1e-3, "the last weights are others"


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2)])
def test_the_rate_halves_after_each_evaluation_that_is_not_better(whole, backend, world_size):
    rates = read_losses(whole[backend, world_size, 3], "learning_rate")
    assert rates == [PEAK] * 6 + [PEAK / 2] * 2 + [PEAK / 4] * 2


def test_the_rate_that_stands_in_the_metrics_is_the_one_that_is_used(runs, write):
    run_yaml, run_dir = write("vanishing", plateau_factor=1e-9)
    run_jobs("single", 1, [{"config": str(run_yaml)}], runs.folder)
    assert read_losses(run_dir, "learning_rate")[REDUCED] == PEAK * 1e-9
    weights = [read_weights(run_dir, step) for step in (BEST, REDUCED, LAST)]
    assert largest_difference(weights[0], weights[1]) > 1e-3
    assert largest_difference(weights[1], weights[2]) < 1e-9


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2)])
def test_a_run_that_goes_on_before_or_after_a_reduction_ends_in_the_same_bits(runs, write, whole, backend, world_size):
    source = whole[backend, world_size, 3]
    written = {step: write(f"resumed_{backend}_{step}") for step in (5, REDUCED, REDUCED + 1, LAST - 1, LAST)}
    jobs = [{"config": str(run_yaml), "copy_of": str(source), "step": step} for step, (run_yaml, _) in written.items()]
    run_jobs(backend, world_size, jobs, runs.folder)
    for _, run_dir in written.values():
        assert_same_end(run_dir, source)


@pytest.mark.parametrize("step", [REDUCED, LAST])
def test_a_stop_that_did_not_wait_for_the_evaluation_that_decides_changes_nothing(write, whole, tmp_path, step):
    run_yaml, run_dir = write(f"stopped_{step}")
    fault = Fault("signal", "update", str(tmp_path / "mark"), steps=(step,), value="SIGTERM")
    ending = start_verb("single", 1, ["train", str(run_yaml)], fault)
    assert ending.has_succeeded, ending.tail()
    assert read(run_dir, "state.json") == {"state": "stopped", "step": step, "reason": "signal SIGTERM"}
    check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
    assert_same_end(run_dir, whole["single", 1, 3])


@pytest.mark.parametrize("count", [0, 20, 35, 40, 46])
def test_kill_9_between_any_two_writes_at_the_end_leaves_an_end_at_the_same_step(write, whole, tmp_path, count):
    """Before, while and after the last checkpoint gets its name; before and after metrics.json."""
    run_yaml, run_dir = write(f"killed_{count}")
    fault = Fault("kill", "files", str(tmp_path / "mark"), steps=(LAST,), count=count)
    assert start_verb("single", 1, ["train", str(run_yaml)], fault).exit_codes == [-9]
    assert read(run_dir, "state.json")["state"] == "running"
    manifest = run_dir / f"checkpoints/step_{LAST:06d}/manifest.json"
    time_of_last = manifest.stat().st_mtime_ns if manifest.exists() else None
    again = run_verb("single", 1, ["train", str(run_yaml)])
    check_ranks_succeeded(again)
    assert f"finished at step {LAST} (early stop: " in again[0].stdout
    assert_same_end(run_dir, whole["single", 1, 3])
    assert time_of_last in (None, manifest.stat().st_mtime_ns), "nothing was left to be done"


def test_a_patience_that_is_lowered_counts_from_the_next_evaluation_on(runs, write, whole):
    source = whole["single", 1, None]
    written = {step: write(f"lowered_{step}", early_stop_patience=2) for step in (7, 8, 9)}
    jobs = [{"config": str(run_yaml), "copy_of": str(source), "step": step} for step, (run_yaml, _) in written.items()]
    run_jobs("single", 1, jobs, runs.folder)
    for step, end in ((7, 8), (8, 8), (9, 10)):
        run_dir = written[step][1]
        assert read(run_dir, "state.json")["step"] == end
        assert read_lines(run_dir) == [line for line in read_lines(source) if line["step"] <= end]


def test_a_run_that_has_ended_early_goes_on_when_asked_as_if_it_had_not(write, whole):
    run_yaml, run_dir = write("going_on", early_stop_patience=None)
    shutil.copytree(whole["single", 1, 3], run_dir)
    before = run_verb("single", 1, ["train", str(run_yaml)])
    check_ranks_succeeded(before)
    assert f"finished before, at step {LAST} (early stop: 3 evaluations in a row" in before[0].stdout
    check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml), "--accept-changes"]))
    assert read(run_dir, "state.json") == {"state": "finished", "step": PLANNED, "reason": ""}
    assert_same_end(run_dir, whole["single", 1, None])


def test_evaluation_and_prediction_use_the_best_step_of_a_run_that_has_ended_early(whole, sample_dir, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole["single", 1, 3], run_dir)
    check_ranks_succeeded(run_verb("single", 1, ["evaluate", str(run_dir)]))
    metrics, best = read(run_dir, "metrics.json"), read(run_dir, "best.json")
    assert metrics["step"] == BEST
    assert metrics["log_loss"] == pytest.approx(best["log_loss"], abs=1e-12)
    written = []
    for checkpoint in ([], ["--checkpoint", str(BEST)], ["--checkpoint", "last"]):
        out = tmp_path / f"{len(written)}.csv"
        test = ["--data", str(sample_dir / "test.csv"), "--out", str(out)]
        check_ranks_succeeded(run_verb("single", 1, ["predict", str(run_dir), *test, *checkpoint]))
        written.append(out.read_bytes())
    assert written[0] == written[1] != written[2]
