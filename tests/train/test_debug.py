"""Debug mode: shows what goes in, names the first NaN, and trains as the distributed run does."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from pref_dist.errors import TrainingError
from pref_dist.train.debug import name_first_nan
from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded
from tests.ranks.run_verb import largest_loss_difference, read_losses, run_verb


@pytest.fixture
def debugged(write_run):
    run_yaml, run_dir = write_run("debugged", train={"max_steps": 5})
    command = ["bash", "launch/single.sh", "train", str(run_yaml), "--debug"]
    result = subprocess.run(
        command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr
    return run_yaml, run_dir, result.stdout


@pytest.mark.timeout(400)
def test_debug_shows_rows_shapes_and_parameters_and_its_losses_are_those_of_a_distributed_run(debugged):
    run_yaml, run_dir, output = debugged
    assert "64 to train" in output
    assert output.count("target A/B/tie") == 3
    assert output.count("response_b [") == 3
    assert "step 1, micro-batch 0: input_ids (" in output
    assert "bert.encoder.layer.0.attention.self.query.weight" in output
    losses = read_losses(run_dir / "debug")
    check_ranks_succeeded(run_verb("ddp", 2, ["train", str(run_yaml), "--limit", "64"]))
    assert largest_loss_difference(losses, read_losses(run_dir)) < 1e-5


def test_debug_refuses_several_ranks(write_run):
    result = run_verb("ddp", 2, ["train", str(write_run()[0]), "--debug"])[0]
    assert result.exit_code == 2
    assert "--debug runs in one process" in result.stderr


def test_one_steps_rows_are_learned_by_heart(write_run):
    run_yaml, run_dir = write_run(train={"learning_rate": 1e-3})
    result = run_verb("single", 1, ["train", str(run_yaml), "--overfit-one-step", "--json"])[0]
    check_ranks_succeeded([result])
    assert json.loads(result.stdout.splitlines()[-1])["loss"] < 0.05
    assert not (run_dir / "checkpoints").exists()


def test_rows_that_cannot_be_learned_fail_the_self_check(write_run):
    result = run_verb(
        "single", 1, ["train", str(write_run()[0]), "--overfit-one-step", "--set", "train.learning_rate=1e-9"]
    )[0]
    assert result.exit_code == 7
    assert "were not learned" in result.stderr


class Poison(nn.Module):
    def forward(self, values):
        return values / 0.0


def test_the_module_where_the_first_nan_arose_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Poison()), nn.Linear(2, 2))
    for name, module in model.named_modules():
        module.register_forward_hook(name_first_nan(name or "the model"))
    with pytest.raises(TrainingError, match=r"output of '1\.1' \(Poison\)"):
        model(torch.ones(1, 2))


def test_a_run_in_debug_mode_works_under_pdb(write_run):
    run_yaml, _ = write_run(train={"max_steps": 1})
    command = [sys.executable, "-m", "pdb", "-c", "continue", "-m", "pref_dist", "train", str(run_yaml), "--debug"]
    result = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=200, input="quit\n")
    assert "finished at step 1" in result.stdout
