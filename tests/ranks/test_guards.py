"""What is not finite, or does not fit, on one rank: decided by all of them alike, named, and never silent."""

import json
import re

import pytest
import torch

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks
from tests.ranks.run_verb import (
    largest_difference,
    largest_loss_difference,
    launch_env,
    read_losses,
    read_steps,
    read_weights,
    run_verb,
)

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

TRAINING_FAILED, OUT_OF_MEMORY = 7, 9
NAMED_ROW = r"1 rows on rank 1 \(row \d+ of \S*train.csv with id \S+\)"


def run_with(fault, backend, world_size, run, *more, verb="train"):
    """Train, or do something else, with a fault; see guard_ranks.py."""
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}", *more]
    command = [*map(str, fault), verb, str(run), *asked]
    return run_ranks("tests.ranks.guard_ranks", world_size, command, launch_env(backend), timeout=240)


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture
def reference(references, write_run):
    """Return a function that trains in one process, with a fault or without, once; and gives (losses, weights)."""

    def train(*fault):
        if fault not in references:
            run_yaml, run_dir = write_run(f"reference_{len(references)}")
            check_ranks_succeeded(
                run_with(fault, "single", 1, run_yaml) if fault else run_verb("single", 1, ["train", str(run_yaml)])
            )
            references[fault] = read_losses(run_dir), read_weights(run_dir)
        return references[fault]

    return train


@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3"])
def test_a_loss_that_is_nan_on_one_rank_changes_nothing_on_all_and_its_row_is_named(write_run, reference, backend):
    _, weights = reference("nan_loss", 0, 5, 5)
    run_yaml, run_dir = write_run(f"nan_{backend}")
    results = run_with(("nan_loss", 1, 5, 5), backend, 2, run_yaml)
    check_ranks_succeeded(results)
    steps = read_steps(run_dir)
    assert [step["step"] for step in steps if step.get("skipped")] == [5]
    assert json.loads((run_dir / "metrics.json").read_text())["skipped_steps"] == 1
    assert [step["step"] for step in steps] == list(range(1, 21))
    assert re.search(f"Step 5 was skipped.* The loss is not finite of {NAMED_ROW}", results[0].stdout)
    assert largest_difference(weights, read_weights(run_dir)) <= 1e-6


@pytest.mark.parametrize("fault", ["nan_loss", "nan_gradient"])
@pytest.mark.parametrize("backend", ["ddp", "fsdp2"])
def test_too_many_skipped_steps_end_all_ranks_and_name_step_rank_and_row(write_run, backend, fault):
    run_yaml, run_dir = write_run(f"skips_{backend}_{fault}", train={"max_skipped_steps": 2})
    results = run_with((fault, 1, 4, 99), backend, 2, run_yaml)
    assert [result.exit_code for result in results] == [TRAINING_FAILED] * 2
    for result in results:
        assert "3 steps in a row (up to step 6)" in result.stderr
        assert "train.max_skipped_steps=2" in result.stderr
        assert re.search(f"The {fault.removeprefix('nan_')} is not finite of {NAMED_ROW}", result.stderr)
    assert json.loads((run_dir / "state.json").read_text())["state"] == "failed"


def test_where_the_embeddings_are_frozen_too_many_skipped_steps_still_end_with_their_reason(write_run):
    run_yaml, _ = write_run("frozen", train={"max_skipped_steps": 1})
    results = run_with(("nan_gradient_frozen", 1, 4, 99), "ddp", 2, run_yaml)
    assert [result.exit_code for result in results] == [TRAINING_FAILED] * 2
    for result in results:
        assert "2 steps in a row (up to step 5)" in result.stderr
        assert "the input embeddings are not trained" in result.stderr


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has no fp16 arithmetic")
@pytest.mark.parametrize("backend", ["ddp", "zero2"])
def test_a_loss_scale_that_cannot_fall_any_further_ends_the_run(write_run, backend):
    train = {"precision": "fp16", "initial_loss_scale": 2.0, "max_skipped_steps": 100}
    run_yaml, _ = write_run(f"scale_{backend}", train=train)
    results = run_with(("nan_gradient", 1, 1, 99), backend, 2, run_yaml)
    assert [result.exit_code for result in results] == [TRAINING_FAILED] * 2
    assert "loss scale of fp16 has fallen below 1 at step 2" in results[0].stderr


@pytest.mark.parametrize("backend", ["ddp", "zero0", "zero1"])
def test_a_budget_that_does_not_fit_on_one_rank_is_halved_on_all_before_the_first_step(write_run, reference, backend):
    losses, weights = reference()
    run_yaml, run_dir = write_run(f"rehearsal_{backend}")
    results = run_with(("memory", 1, 110, 0), backend, 2, run_yaml)
    check_ranks_succeeded(results)
    # 400 -> 200 -> 100
    assert "WARNING: train.token_budget=400 does not fit in memory (rank 1: " in results[0].stdout
    assert "Trying 200" in results[0].stdout
    assert "Trying 100" in results[0].stdout
    assert json.loads((run_dir / "fitted_budgets.json").read_text()) == {
        "train.token_budget": {"asked": 400, "fits": 100}
    }
    assert "token_budget: 400" in (run_dir / "config.yaml").read_text()
    assert largest_loss_difference(losses, read_losses(run_dir)) <= 1e-5
    assert largest_difference(weights, read_weights(run_dir)) <= 1e-6


@pytest.mark.parametrize("backend", ["zero3", "fsdp2"])
def test_where_ranks_wait_for_each_other_in_forward_the_next_start_takes_the_smaller_budget(
    write_run, reference, backend
):
    losses, weights = reference()
    run_yaml, run_dir = write_run(f"rehearsal_{backend}", parallel={"timeout_seconds": 20})
    fault = ("memory", 1, 250, 0)
    results = run_with(fault, backend, 2, run_yaml)
    assert results[1].exit_code == OUT_OF_MEMORY
    assert results[0].exit_code != 0
    assert "Rank 1 ran out of memory in step 1 with train.token_budget=400" in results[1].stderr
    assert "The next start uses 200" in results[1].stderr
    again = run_with(fault, backend, 2, run_yaml)
    check_ranks_succeeded(again)
    assert "WARNING: train.token_budget=400 did not fit in memory: 200 is used instead (delete" in again[0].stdout
    assert largest_loss_difference(losses, read_losses(run_dir)) <= 1e-5
    assert largest_difference(weights, read_weights(run_dir)) <= 1e-6


def test_running_out_of_memory_later_ends_all_ranks_and_the_same_command_goes_on_with_less(write_run, reference):
    losses, weights = reference()
    run_yaml, run_dir = write_run("later", train={"save_every_steps": 4}, parallel={"timeout_seconds": 20})
    results = run_with(("memory", 1, 250, 10), "ddp", 2, run_yaml)
    assert results[1].exit_code == OUT_OF_MEMORY
    assert results[0].exit_code not in (0, None)
    assert not results[0].timed_out
    assert "with train.token_budget=400" in results[1].stderr
    again = run_with(("memory", 1, 250, 10), "ddp", 2, run_yaml)
    check_ranks_succeeded(again)
    assert "200 is used instead" in again[0].stdout
    assert re.search(r"Going on from step (8|12|16)", again[0].stdout)
    assert [step["step"] for step in read_steps(run_dir)] == list(range(1, 21))
    assert largest_loss_difference(losses, read_losses(run_dir)) <= 1e-5
    assert largest_difference(weights, read_weights(run_dir)) <= 1e-6


def test_an_evaluation_without_room_leaves_its_own_smaller_budget(write_run):
    run_yaml, run_dir = write_run("evaluation", evaluate={"every_steps": 3, "token_budget": 800})
    fault = ("evaluation_memory", 0, 500, 0)
    (failed,) = run_with(fault, "single", 1, run_yaml)
    assert failed.exit_code == OUT_OF_MEMORY
    assert "evaluate.token_budget=800" in failed.stderr
    check_ranks_succeeded(run_with(fault, "single", 1, run_yaml))
    assert json.loads((run_dir / "fitted_budgets.json").read_text()) == {
        "evaluate.token_budget": {"asked": 800, "fits": 400}
    }
    (failed,) = run_with(fault, "single", 1, run_dir, "--no-baselines", verb="evaluate")
    assert failed.exit_code == OUT_OF_MEMORY
    remedy = "--set evaluate.token_budget=400"
    assert remedy in failed.stderr
    evaluated = run_with(fault, "single", 1, run_dir, "--no-baselines", *remedy.split(), verb="evaluate")
    check_ranks_succeeded(evaluated)


def test_a_longest_row_that_does_not_fit_is_an_error_with_the_remedy(write_run):
    run_yaml, _ = write_run("longest")
    (failed,) = run_with(("memory", 0, 20, 0), "single", 1, run_yaml)
    assert failed.exit_code == OUT_OF_MEMORY
    assert "It holds but the longest row. Lower data.max_tokens" in failed.stderr
