"""Evaluation of 37 rows: every row once, the same bits on any number of ranks, scikit-learn's log loss."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from pref_dist.evaluate.infer import join_parts
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.metrics import probabilities
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
ROWS = 37
LAUNCHES = {"single": ("single", 1), "ddp 2": ("ddp", 2), "ddp 3": ("ddp", 3), "fsdp2 2": ("fsdp2", 2)}
SEVERAL = list(LAUNCHES)[1:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A run of three steps, and a labelled file of 37 rows with two that cannot be read."""
    import yaml

    folder = tmp_path_factory.mktemp("evaluation")
    run = {
        "run": {"dir": str(folder / "run")},
        "data": {"train": str(sample_dir / "train.csv"), "max_tokens": 96, "cache_dir": str(cache_dir)},
        "model": {"name": str(tiny_model)},
        "train": {"rows_per_step": 32, "max_steps": 3, "learning_rate": 1e-3},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    labelled = pd.read_csv(sample_dir / "test_labels.csv", dtype=str).head(ROWS + 2)
    labelled.loc[[4, 20], "prompt"] = '["no end'
    labelled.to_csv(folder / "labelled.csv", index=False)
    check_ranks_succeeded(run_verb("single", 1, ["train", str(folder / "run.yaml")]))
    return folder


@pytest.fixture(scope="module")
def outcomes(trained):
    """(metrics, ids, logits, targets, submission) after evaluate and predict, by the launch that did it."""
    found = {}
    for name, (backend, world_size) in LAUNCHES.items():
        data = str(trained / "labelled.csv")
        small = ["--set", "evaluate.token_budget=600"]
        arguments = ["evaluate", str(trained / "run"), "--data", data, "--no-baselines", "--json", *small]
        results = run_verb(backend, world_size, arguments)
        check_ranks_succeeded(results)
        assert all(not result.stdout.strip() for result in results[1:]), "only rank 0 may print"
        out = trained / f"submission_{name}.csv"
        check_ranks_succeeded(
            run_verb(backend, world_size, ["predict", str(trained / "run"), "--data", data, "--out", str(out), *small])
        )
        logits = read_logits(trained / "run" / "evaluations" / "labelled" / "logits.parquet")
        rows = (logits.row_ids, logits.logits, logits.targets)
        found[name] = (json.loads(results[0].stdout), *rows, out.read_bytes())
    return found


def test_log_loss_is_scikit_learns_on_the_written_logits(outcomes):
    for metrics, ids, logits, targets, _ in outcomes.values():
        assert metrics["num_rows"] == len(ids) == len(set(ids)) == ROWS
        expected = log_loss(targets.argmax(1), probabilities(logits), labels=[0, 1, 2])
        assert abs(metrics["log_loss"] - expected) <= 1e-12


def test_no_row_is_missing_none_stands_twice_and_all_are_in_the_order_of_the_file(outcomes, trained):
    wanted = pd.read_csv(trained / "labelled.csv", dtype=str)["id"].drop(index=[4, 20]).tolist()
    assert all(ids == wanted for _, ids, *_ in outcomes.values())


@pytest.mark.parametrize("launch", SEVERAL)
def test_logits_and_metrics_are_the_same_bits_on_any_number_of_ranks(outcomes, launch):
    one, many = outcomes["single"], outcomes[launch]
    assert np.array_equal(one[2], many[2])
    assert one[0] == many[0]


@pytest.mark.parametrize("launch", SEVERAL)
def test_the_submission_is_the_same_bytes_on_any_number_of_ranks(outcomes, launch):
    assert outcomes["single"][4] == outcomes[launch][4]


def test_the_submission_is_complete_and_rows_set_aside_have_the_class_shares(outcomes, trained):
    submission = pd.read_csv(trained / "submission_ddp 2.csv", dtype={"id": str})
    source = pd.read_csv(trained / "labelled.csv", dtype=str)
    assert submission["id"].tolist() == source["id"].tolist()
    chances = submission[["winner_model_a", "winner_model_b", "winner_tie"]].to_numpy()
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-6)
    shares = json.loads((trained / "run" / "metrics.json").read_text(encoding="utf-8"))
    progress = json.loads(
        (trained / "run" / "checkpoints" / "step_000003" / "progress.json").read_text(encoding="utf-8")
    )
    assert np.allclose(chances[[4, 20]], progress["class_shares"])
    assert shares["num_rows"] == ROWS


def test_the_newest_evaluation_is_copied_to_the_run_folder(outcomes, trained):
    copied = json.loads((trained / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert copied == json.loads(
        (trained / "run" / "evaluations" / "labelled" / "metrics.json").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("damage", ["missing", "twice"])
def test_a_row_that_is_missing_or_there_twice_is_never_silent(damage):
    wanted = np.arange(4)
    rows = np.array([2, 0, 1] if damage == "missing" else [2, 0, 1, 3, 3])
    with pytest.raises(RuntimeError, match=r"missing: 1 \(first: \[3\]\)" if damage == "missing" else "twice: 1"):
        join_parts([([rows], [np.zeros((len(rows), 3), np.float32)])], wanted)
