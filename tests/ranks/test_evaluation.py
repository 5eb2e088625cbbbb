"""Evaluation of 37 rows: every row once, the same bits on any number of ranks, scikit-learn's log loss."""

import json
import signal
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from pref_dist.evaluate.infer import join_parts
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.metrics import probabilities
from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks, start_ranks
from tests.ranks.run_verb import run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
ROWS = 37
LAUNCHES = {"single": ("single", 1), "ddp 2": ("ddp", 2), "ddp 3": ("ddp", 3), "fsdp2 2": ("fsdp2", 2)}
SEVERAL = list(LAUNCHES)[1:]
# What is inferred in one process by each number of ranks: (evaluate.swap, evaluate.swap_share, evaluate.token_budget).
SWAPS = {"none": ("none", 0.3, 600), "full": ("full", 0.3, 600), "selective": ("selective", 0.3, 600)}
JOBS = SWAPS | {"wide": ("full", 0.3, 4000)}
NUM_KILLED_ROWS = 1000


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
        metrics = json.loads(results[0].stdout)
        assert metrics.pop("timing")["rows_per_second"] > 0  # of this launch alone
        found[name] = (metrics, *rows, out.read_bytes())
    return found


def test_a_reference_that_lacks_a_row_is_said_by_every_rank_and_nobody_waits(trained):
    reference = trained / "lacking.csv"
    reference.write_text("id,winner_model_a,winner_model_b,winner_tie\nother,0.2,0.3,0.5\n")
    data = ["--data", str(trained / "labelled.csv"), "--no-baselines", "--reference", str(reference)]
    for result in run_verb("ddp", 2, ["evaluate", str(trained / "run"), *data], timeout=120):
        assert not result.timed_out
        assert result.exit_code == 3, result.stderr
        assert f"{reference} lacks {ROWS} of {ROWS} ids" in result.stderr


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


@pytest.fixture(scope="module")
def inferred(trained):
    """{ranks: {job: {first, second, logits, log_loss, accuracy}}} of the labelled rows, by 1, 2, 3 and 4 ranks."""
    found = {}
    for world_size in (1, 2, 3, 4):
        out = trained / f"inferred_{world_size}"
        out.mkdir()
        arguments = [str(trained / "run"), str(trained / "labelled.csv"), str(out), json.dumps(JOBS)]
        check_ranks_succeeded(run_ranks("tests.ranks.inference_ranks", world_size, arguments, timeout=240))
        found[world_size] = {job: dict(np.load(out / f"{job}.npz")) for job in JOBS}
    return found


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_both_orders_are_the_same_bits_on_any_number_of_ranks(inferred, job, world_size):
    one, many = inferred[1][job], inferred[world_size][job]
    assert one.keys() == many.keys()
    for name, values in one.items():
        if name in ("log_loss", "accuracy"):
            assert abs(values - many[name]) <= 1e-12
        else:
            assert np.array_equal(values, many[name], equal_nan=True), name


def test_the_token_budget_does_not_change_the_log_loss(inferred):
    assert abs(inferred[1]["full"]["log_loss"] - inferred[1]["wide"]["log_loss"]) <= 1e-6


def test_selective_runs_the_second_order_of_the_most_uncertain_rows_alone(inferred):
    full, part = inferred[1]["full"], inferred[1]["selective"]
    chances = probabilities(full["first"].astype(np.float64))
    entropies = -(chances * np.log(chances)).sum(axis=1)
    chosen = np.sort(np.argsort(-entropies, kind="stable")[:12])  # ceil(0.3 * 37)
    assert np.flatnonzero(np.isfinite(part["second"]).all(axis=1)).tolist() == chosen.tolist()
    assert np.abs(part["second"][chosen] - full["second"][chosen]).max() <= 1e-6
    assert np.array_equal(part["first"], inferred[1]["none"]["logits"])
    others = np.setdiff1d(np.arange(ROWS), chosen)
    assert np.array_equal(part["logits"][others], part["first"][others])
    both = (chances + probabilities(full["second"].astype(np.float64))) / 2
    assert np.abs(probabilities(part["logits"])[chosen] - both[chosen]).max() <= 1e-6


def test_a_prediction_that_was_killed_goes_on_with_other_ranks_to_the_same_bytes(trained, tmp_path):
    """Two ranks are killed by -9 once a part is there; three go on, run fewer batches, and leave no part behind."""
    rows = pd.concat([pd.read_csv(trained / "labelled.csv", dtype=str)] * (NUM_KILLED_ROWS // (ROWS + 2)))
    rows["id"] = [f"row {number}" for number in range(len(rows))]
    rows.to_csv(tmp_path / "many.csv", index=False)
    settings = ["evaluate.token_budget=96", "evaluate.swap=selective", "data.num_workers=0"]
    command = ["predict", str(trained / "run"), "--data", str(tmp_path / "many.csv")]
    command += [word for setting in settings for word in ("--set", setting)]
    whole, out = tmp_path / "whole.csv", tmp_path / "killed.csv"
    check_ranks_succeeded(run_verb("single", 1, [*command, "--out", str(whole)]))
    with start_ranks("pref_dist", 2, [*command, "--out", str(out)]) as running:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".killed.csv.parts/run_0/first/*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert {result.exit_code for result in running.wait(60)} == {-signal.SIGKILL}
    assert not out.exists()
    results = run_verb("ddp", 3, [*command, "--out", str(out)])
    check_ranks_succeeded(results)
    assert out.read_bytes() == whole.read_bytes()
    assert "Going on: " in results[0].stderr
    assert not (tmp_path / ".killed.csv.parts").exists()
