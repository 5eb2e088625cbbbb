"""A run of adapters from train to predict on ZeRO-3, and the weights beside which adapters are trained."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import read_losses, run_verb
from tests.tiny_llm import write_tiny_llm
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
LAUNCHES = {"zero3": 2, "single": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, cache_dir):
    """A run of three steps on two ranks of ZeRO-3: (RUN.yaml, RUN_DIR, the model's folder)."""
    folder = tmp_path_factory.mktemp("lora")
    model = write_tiny_llm(folder / "llama", sample_dir / "train.csv")
    writer = TinyRuns(folder, sample_dir / "train.csv", model, cache_dir)
    config, run_dir = writer.write(
        "run",
        model={"kind": "decoder", "lora": {"rank": 4}},
        train={"max_steps": 3, "token_budget": 700, "learning_rate": 1e-3},
        data={"max_tokens": 160},
    )
    check_ranks_succeeded(run_verb("zero3", 2, ["train", str(config)]))
    return config, run_dir, model


@pytest.fixture(scope="module")
def outcomes(trained, sample_dir):
    """{launch: (metrics, submission)}"""
    _, run_dir, _ = trained
    found = {}
    for backend, world_size in LAUNCHES.items():
        evaluated = run_verb(backend, world_size, ["evaluate", str(run_dir), "--no-baselines", "--json"])
        check_ranks_succeeded(evaluated)
        out = run_dir.with_name(f"{backend}.csv")
        data = ["--data", str(sample_dir / "test.csv"), "--out", str(out)]
        check_ranks_succeeded(run_verb(backend, world_size, ["predict", str(run_dir), *data]))
        found[backend] = (json.loads(evaluated[0].stdout), pd.read_csv(out, dtype={"id": str}))
    return found


def test_evaluation_finds_the_log_loss_that_training_found_on_the_ranks_that_share_weights_and_on_one(
    trained, outcomes
):
    best = json.loads((trained[1] / "best.json").read_text())
    for metrics, _ in outcomes.values():
        assert metrics["num_rows"] == best["num_rows"]
        assert abs(metrics["log_loss"] - best["log_loss"]) <= 1e-6


def test_a_submission_is_complete_and_the_same_on_ranks_that_share_weights_and_on_one(outcomes, sample_dir):
    wanted = pd.read_csv(sample_dir / "test.csv", dtype=str)["id"].tolist()
    shared, alone = (submission for _, submission in outcomes.values())
    assert shared["id"].tolist() == alone["id"].tolist() == wanted
    chances = shared.drop(columns="id").to_numpy()
    assert np.abs(chances - alone.drop(columns="id").to_numpy()).max() <= 1e-6
    assert chances.std(axis=0).min() > 0.0


def test_adapters_never_meet_other_weights_than_those_that_they_were_trained_beside(trained, sample_dir, tmp_path):
    from safetensors.numpy import load_file, save_file

    config, run_dir, model = trained
    weights = load_file(model / "model.safetensors")
    kept = tmp_path / "kept.safetensors"
    shutil.copyfile(model / "model.safetensors", kept)
    (run_dir / "state.json").write_text(json.dumps({"state": "stopped", "step": 3, "reason": ""}))
    predict = ["predict", str(run_dir), "--data", str(sample_dir / "test.csv"), "--out", str(tmp_path / "out.csv")]
    predict += ["--checkpoint", "last"]
    try:
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-3
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        (resumed,), (predicted,) = (run_verb("single", 1, verb) for verb in (["train", str(config)], predict))
        assert (resumed.exit_code, predicted.exit_code) == (5, 5)
        assert "belongs to another run: the frozen weights of model.name changed" in resumed.stderr
        assert f"trained beside other weights than those of model.name={model} now" in predicted.stderr
        (model / "model.safetensors").unlink()
        (predicted,) = run_verb("single", 1, predict)
        assert predicted.exit_code == 5
        assert "holds adapters alone (model.lora), and the weights beside which they were trained are gone" in (
            predicted.stderr
        )
    finally:
        shutil.copyfile(kept, model / "model.safetensors")
    check_ranks_succeeded(run_verb("single", 1, predict))


def test_a_type_of_frozen_weights_that_cannot_run_here_ends_at_start_before_rows_are_read(trained, tmp_path):
    config, run_dir, _ = trained
    base = ["--set", f"run.dir={tmp_path / 'run'}", "--set", "data.train=no_such_file.csv"]
    for asked, message in (("nf4", "model.lora.base=nf4 runs on CUDA alone"), ("bf16", "train.precision=fp32")):
        precision = "bf16" if asked == "nf4" else "fp32"
        wanted = ["--set", f"model.lora.base={asked}", "--set", f"train.precision={precision}"]
        (result,) = run_verb("single", 1, ["train", str(config), *base, *wanted])
        assert result.exit_code == 2
        assert message in result.stderr
    assert len(read_losses(run_dir)) == 3
