"""`train --dry-run` on several ranks: a line a rank, nothing written, and one that has no room ends all of them."""

import re

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks
from tests.ranks.run_verb import launch_env, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

OUT_OF_MEMORY = 9


@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3"])
def test_every_rank_is_measured_and_the_run_folder_stays_as_it_is(write_run, backend):
    run_yaml, run_dir = write_run(f"dry_{backend}")
    results = run_verb(backend, 2, ["train", str(run_yaml), "--dry-run"])
    check_ranks_succeeded(results)
    assert f"memory of a rank ({backend}, 2 x cpu)" in results[0].stdout
    ranks = re.findall(r"^([01])(?: +[\d.]+ [KMG]?B){5}$", results[0].stdout, re.MULTILINE)
    assert ranks == ["0", "1"], results[0].stdout
    assert "train.token_budget=400 fits" in results[0].stdout
    assert results[1].stdout == ""
    assert not run_dir.exists()


@pytest.mark.parametrize(("backend", "room", "told"), [("ddp", 110, 2), ("zero2", 60, 1)])
def test_a_rank_without_room_ends_all_with_the_remedy_and_writes_nothing(write_run, backend, room, told):
    run_yaml, run_dir = write_run(f"tight_{backend}", parallel={"timeout_seconds": 20})
    fault = ["memory", "1", str(room), "0"]
    asked = ["--set", f"parallel.backend={backend}", "--set", "parallel.world_size=2"]
    command = [*fault, "train", str(run_yaml), "--dry-run", *asked]
    results = run_ranks("tests.ranks.guard_ranks", 2, command, launch_env(backend), timeout=120)
    assert results[1].exit_code == OUT_OF_MEMORY
    assert results[0].exit_code == OUT_OF_MEMORY if told == 2 else results[0].exit_code != 0
    assert "train.token_budget=400" in results[1].stderr
    assert "parallel.activation_checkpointing=true" in results[1].stderr
    assert not (run_dir / "fitted_budgets.json").exists()
    assert not (run_dir / "config.yaml").exists()
