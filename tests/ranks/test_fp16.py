"""fp16 on a CPU that has it: overflow, skip and growth of the loss scale, the same on all ranks and back-ends."""

import json

import pytest
import torch

from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import largest_loss_difference, read_losses, read_steps, run_verb

pytestmark = [
    pytest.mark.ranks,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has no fp16 arithmetic"),
]

# 2^40 overflows fp16 (largest 65504) whatever the gradients, so that the first steps are skipped.
OVERFLOWING = {
    "train": {
        "precision": "fp16",
        "initial_loss_scale": 2.0**40,
        "loss_scale_growth_interval": 4,
        "max_steps": 40,
        "epochs": 2,
        "max_skipped_steps": 40,
    }
}


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def steps_of(runs, write_run):
    def train(backend, world_size):
        if (backend, world_size) not in runs:
            run_yaml, run_dir = write_run(f"fp16_{backend}_{world_size}", **OVERFLOWING)
            results = run_verb(backend, world_size, ["train", str(run_yaml)])
            check_ranks_succeeded(results)
            runs[backend, world_size] = (read_steps(run_dir), results[0].stdout, read_losses(run_dir))
        return runs[backend, world_size]

    return train


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2), ("fsdp2", 2)])
def test_an_overflow_skips_the_step_and_halves_the_scale_and_clean_steps_double_it(steps_of, backend, world_size):
    steps, output, _ = steps_of(backend, world_size)
    assert steps[0]["skipped"]
    assert "Step 1 was skipped" in output
    scale, num_clean, num_doubled = 2.0**40, 0, 0
    for step in steps:
        num_clean = 0 if step["skipped"] else num_clean + 1
        if step["skipped"]:
            scale /= 2
        elif num_clean == 4:
            scale, num_clean, num_doubled = scale * 2, 0, num_doubled + 1
        assert step["loss_scale"] == scale
    assert num_doubled >= 2


@pytest.mark.parametrize(("backend", "world_size"), [("ddp", 2), ("zero2", 2), ("fsdp2", 2)])
def test_both_ranks_skip_the_same_steps_as_one(steps_of, backend, world_size):
    one, two = steps_of("single", 1), steps_of(backend, world_size)
    assert [step["skipped"] for step in one[0]] == [step["skipped"] for step in two[0]]
    assert largest_loss_difference(one[2], two[2]) < 2e-3


def test_too_many_skipped_steps_end_the_run_with_the_step_named(write_run):
    settings = {"train": OVERFLOWING["train"] | {"max_skipped_steps": 3}}
    run_yaml, run_dir = write_run("fp16_loop", **settings)
    results = run_verb("ddp", 2, ["train", str(run_yaml)])
    assert [result.exit_code for result in results] == [7, 7]
    assert "4 steps in a row (up to step 4)" in results[0].stderr
    failure = json.loads((run_dir / "failures" / "rank_1.json").read_text(encoding="utf-8"))
    assert failure["exit_code"] == 7
    assert failure["step"] == 4
    assert json.loads((run_dir / "state.json").read_text(encoding="utf-8"))["state"] == "failed"


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2), ("fsdp2", 2)])
def test_bf16_trains_close_to_fp32_with_fp32_weights(write_run, backend, world_size):
    losses = {}
    for precision in ("fp32", "bf16"):
        run_yaml, run_dir = write_run(f"{precision}_{backend}", train={"precision": precision})
        check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
        losses[precision] = read_losses(run_dir)
    assert 0 < largest_loss_difference(losses["fp32"], losses["bf16"]) < 2e-2
