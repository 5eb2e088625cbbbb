"""A finished training says what its held-out rows tell, as `evaluate` would; `evaluate` names what it cannot use."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from pref_dist.cli.evaluate import evaluate as evaluate_verb
from pref_dist.config.load import load_config
from pref_dist.errors import CheckpointError, DataError
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.evaluate.run import EvaluateOptions, evaluate
from pref_dist.evaluate.worst_rows import MAX_CHARACTERS, shorten
from pref_dist.metrics import row_log_losses
from pref_dist.run_dir import RunDir
from pref_dist.train.describe import describe_run
from pref_dist.train.folds import train_folds
from pref_dist.train.run import train
from tests.tiny_runs import TinyRuns


@pytest.fixture(scope="module")
def described(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A run of three steps, described at its end, and its metrics.json as training left it."""
    runs = TinyRuns(tmp_path_factory.mktemp("described"), sample_dir / "train.csv", tiny_model, cache_dir)
    changes = {"train": {"max_steps": 3, "learning_rate": 1e-3}, "evaluate": {"describe": True, "swap": "full"}}
    run_yaml, run_dir = runs.write("run", **changes)
    result = train(load_config(run_yaml, []))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert result.metrics == metrics
    return SimpleNamespace(runs=runs, yaml=run_yaml, dir=run_dir, metrics=metrics)


def test_training_ends_with_what_evaluate_would_say(described):
    found = evaluate(described.dir, EvaluateOptions()).metrics
    timing = found.pop("timing")
    assert timing["seconds"] > 0
    assert {name: described.metrics[name] for name in found if name in described.metrics} == {
        name: value for name, value in found.items() if name in described.metrics
    }
    sections = {
        "intervals",
        "classes",
        "confusion",
        "slices",
        "verbosity",
        "calibration",
        "orders",
        "gate",
        "baselines",
    }
    assert sections <= set(described.metrics)


def test_a_finished_run_that_is_started_again_tells_its_own_scores_though_another_file_was_evaluated_since(
    described, sample_dir
):
    scores = json.loads((described.dir / "best.json").read_text())
    evaluate(described.dir, EvaluateOptions(data=sample_dir / "test_labels.csv", baselines=False))
    copied = (described.dir / "metrics.json").read_bytes()
    again = train(load_config(described.yaml, []))
    assert (again.was_finished, again.reason) == (True, "")
    assert len(json.loads((described.dir / "starts.json").read_text())) == 1, "a start that does nothing is none"
    assert again.metrics == scores
    assert (described.dir / "metrics.json").read_bytes() == copied
    # Before metrics were described, such a copy had no intervals.
    (described.dir / "metrics.json").write_text(json.dumps({"log_loss": 9.0, "accuracy": 0.0, "num_rows": 60}))
    assert train(load_config(described.yaml, [])).metrics == scores
    assert json.loads((described.dir / "metrics.json").read_text())["log_loss"] == 9.0
    (described.dir / "metrics.json").write_text(json.dumps(described.metrics))
    assert train(load_config(described.yaml, [])).metrics == described.metrics


def test_the_worst_rows_are_those_with_the_highest_loss_and_hold_their_texts(described, sample_dir):
    worst = json.loads((described.dir / "worst_rows.json").read_text())
    logits = read_logits(described.dir / "valid_logits.parquet")
    losses = row_log_losses(logits.logits, logits.targets)
    ids = [logits.row_ids[place] for place in np.argsort(-losses, kind="stable")[: len(worst)]]
    assert [row["row_id"] for row in worst] == ids
    source = pd.read_csv(sample_dir / "train.csv", dtype=str).set_index("id")
    for row in worst:
        assert json.loads(source.loc[row["row_id"], "response_a"]) == [turn["response_a"] for turn in row["turns"]]
        assert row["row"] == source.index.get_loc(row["row_id"]) + 1


def test_a_long_text_keeps_both_ends_and_half_a_surrogate_pair_can_be_written():
    text = shorten("a" * 5_000 + "b" * 5_000)
    assert len(text) <= MAX_CHARACTERS
    assert text[0] == "a"
    assert text[-1] == "b"
    shorten("\ud83d").encode("utf-8")


def test_a_model_that_has_learnt_nothing_is_a_loud_warning_at_the_end_of_training(described, capsys):
    changes = {"train": {"max_steps": 1, "learning_rate": 1e-9}, "evaluate": {"describe": True}}
    run_yaml, _ = described.runs.write("nothing", **changes)
    result = train(load_config(run_yaml, []))
    assert result.metrics["gate"]["is_prior"] or not result.metrics["gate"]["passed"]
    assert "WARNING    The model (" in capsys.readouterr().out


def test_rows_that_the_model_has_learnt_from_are_counted_said_and_kept_with_the_temperature(described, capsys):
    changes = {"run": {"seed": 99}, "model": {"name": str(described.dir)}, "train": {"max_steps": 1}}
    run_yaml, run_dir = described.runs.write("after", evaluate={"describe": True}, **changes)
    metrics = train(load_config(run_yaml, [])).metrics
    learnt = int((~read_logits(run_dir / "valid_logits.parquet").held_out).sum())
    assert metrics["num_learnt"] == learnt > 0
    assert described.metrics["num_learnt"] == 0
    assert f"has learnt from {learnt} of these {metrics['num_rows']} rows" in capsys.readouterr().out
    assert json.loads((run_dir / "calibration.json").read_text())["num_learnt"] == learnt


def test_without_describe_a_training_leaves_the_scores_alone(described):
    run_yaml, run_dir = described.runs.write("scores", train={"max_steps": 1})
    metrics = train(load_config(run_yaml, [])).metrics
    assert "log_loss" in metrics
    assert "intervals" not in metrics
    assert not (run_dir / "worst_rows.json").exists()


def test_rows_that_are_gone_at_the_end_leave_the_finished_run_whole_and_are_said(described, tmp_path, sample_dir):
    source = tmp_path / "train.csv"
    source.write_bytes((sample_dir / "train.csv").read_bytes())
    run_yaml, run_dir = described.runs.write("gone", data={"train": str(source)}, train={"max_steps": 1})
    metrics = train(load_config(run_yaml, [])).metrics
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config.setdefault("evaluate", {})["describe"] = True
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    source.rename(tmp_path / "elsewhere.csv")
    said: list[str] = []
    before = (run_dir / "metrics.json").read_bytes()
    assert describe_run(RunDir(run_dir), said.append).keys() >= metrics.keys()
    assert "finished and whole" in " ".join(said)
    assert (run_dir / "metrics.json").read_bytes() == before
    (tmp_path / "elsewhere.csv").rename(source)
    assert "gate" in describe_run(RunDir(run_dir), said.append)


def test_folds_are_described_out_of_fold_and_each_by_its_name(described, capsys):
    rate = {"max_steps": 2, "learning_rate": 1e-9}
    changes = {"data": {"num_folds": 2}, "train": rate, "evaluate": {"describe": True}}
    run_yaml, run_dir = described.runs.write("folds", **changes)
    metrics = train_folds(load_config(run_yaml, [])).metrics
    assert metrics == json.loads((run_dir / "metrics.json").read_text())
    assert metrics["num_rows"] == sum(fold["num_rows"] for fold in metrics["folds"]) == 300
    assert {"gate", "calibration", "slices"} <= set(metrics)
    for fold in metrics["folds"]:
        own = json.loads((run_dir / f"fold_{fold['fold']}" / "metrics.json").read_text())
        assert own["log_loss"] == fold["log_loss"]
        assert own["baselines"]["length_tree"]["num_rows"] == fold["num_rows"]
    said = capsys.readouterr().out
    assert re.findall("(?m)^WARNING    (.+): The model", said) == ["all folds", "fold 0", "fold 1"]
    for fold in (0, 1):
        tables = CliRunner().invoke(evaluate_verb, [str(run_dir / f"fold_{fold}"), "--no-baselines"]).output
        assert re.findall(r"(?m)^(\S.*\S) {2,}log loss ", tables) == [f"fold {fold}"]


def test_evaluate_prints_intervals_the_gate_the_temperature_and_both_orders(described, sample_dir):
    result = CliRunner().invoke(evaluate_verb, [str(described.dir), "--data", str(sample_dir / "test_labels.csv")])
    assert result.exit_code == 0, result.output
    for words in ("95 % interval", "length_tree", "temperature", "both orders of 60 rows", "baseline"):
        assert words in result.output


@pytest.fixture
def labelled(sample_dir):
    return pd.read_csv(sample_dir / "test_labels.csv", dtype=str)


def refuse(run_dir, error, words, **options):
    with pytest.raises(error) as caught:
        evaluate(run_dir, EvaluateOptions(baselines=False, **options))
    for word in words:
        assert word in str(caught.value)


def test_a_file_without_labels_is_named(described, labelled, tmp_path):
    path = tmp_path / "bare.csv"
    labelled.filter(regex="^(?!winner)").to_csv(path, index=False)
    refuse(described.dir, DataError, ["bare.csv", "no label columns", "predict"], data=path)


def test_labels_of_other_classes_are_named(described, labelled, tmp_path):
    path = tmp_path / "other.csv"
    labelled.assign(winner_model_a="7").to_csv(path, index=False)
    refuse(described.dir, DataError, ["other.csv", "winner"], data=path)


def test_a_file_of_no_rows_is_named(described, labelled, tmp_path):
    path = tmp_path / "empty.csv"
    labelled.head(0).to_csv(path, index=False)
    refuse(described.dir, DataError, ["empty.csv"], data=path)


def test_a_reference_that_lacks_a_row_is_named_before_the_model_runs(described, labelled, sample_dir, tmp_path):
    lacking, known = tmp_path / "lacking.csv", pd.read_csv(sample_dir / "bayes.csv", dtype=str)
    known[known["id"] != labelled["id"][7]].to_csv(lacking, index=False)
    options = {"data": sample_dir / "test_labels.csv", "references": (lacking,)}
    refuse(described.dir, DataError, ["lacking.csv", "lacks 1 of 60 ids"], **options)


def test_a_run_without_a_checkpoint_is_named(described, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(described.dir, copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="step_"):
        evaluate(copy, EvaluateOptions(baselines=False))
