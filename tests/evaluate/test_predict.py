"""The verb predict: runs averaged, temperatures, time limits, and what must go with a sample submission."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from pref_dist.config.schema import ParallelSection
from pref_dist.errors import CheckpointError, ConfigError, DataError, ModelError
from pref_dist.evaluate.calibration_file import Calibration, read_calibration, write_calibration
from pref_dist.evaluate.parts_lock import only_one_job
from pref_dist.evaluate.run import evaluate
from pref_dist.export import export
from pref_dist.labels import WINNER_COLUMNS
from pref_dist.predict import PredictOptions, parts_beside, predict
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import start_parallel
from tests.ranks.many_runs import run_jobs
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]
BAD_ROW, NUM_ROWS = 7, 60
FULL, CALIBRATED = "evaluate.swap=full", "evaluate.calibrate=temperature"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """Two runs, `one` and `two`, and test.csv with a row that no model can read."""
    folder = tmp_path_factory.mktemp("predict")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    rates = {"one": 5e-3, "two": 1e-2}
    made = [runs.write(name, train={"max_steps": 3, "learning_rate": rate})[0] for name, rate in rates.items()]
    run_jobs("single", 1, [{"config": str(run_yaml)} for run_yaml in made], folder)
    rows = pd.read_csv(sample_dir / "test.csv", dtype=str, keep_default_na=False)
    rows.loc[BAD_ROW, "prompt"] = '["no end'
    rows.to_csv(folder / "test.csv", index=False)
    return folder


@pytest.fixture
def ask(folder, tmp_path):
    """Return a function that predicts test.csv and returns (result, probabilities (60, 3))."""

    def ask_runs(*names, overrides=(), **options):
        out = tmp_path / "out.csv"
        result = predict([folder / name for name in names], folder / "test.csv", out,
                         PredictOptions(overrides=overrides, **options))  # fmt: skip
        assert not list(tmp_path.glob(".*")), "no part is left"
        return result, pd.read_csv(out)[list(WINNER_COLUMNS)].to_numpy()

    return ask_runs


def test_several_runs_are_averaged_each_with_its_own_orders_and_temperature(folder, ask, capsys):
    calibration = Calibration(2.0, True, (0.01, 0.03), 0.02, step=3, orders="full", num_rows=30, num_learnt=0)
    write_calibration(RunDir(folder / "two").calibration, calibration)
    assert read_calibration(RunDir(folder / "two").calibration) == calibration
    overrides = (FULL, CALIBRATED)
    (_, one), (two_result, two) = ask("one", overrides=overrides), ask("two", overrides=overrides)
    result, both = ask("one", "two", overrides=overrides)
    assert np.abs(both - (one + two) / 2).max() <= 1e-12
    assert result.runs == [str(folder / "one"), str(folder / "two")]
    assert result.temperatures == [None, 2.0]
    assert two_result.temperatures == [2.0]
    assert result.num_both_orders == NUM_ROWS - 1
    assert result.num_prior == 1
    said = capsys.readouterr().err
    assert "temperature 2.0000 is applied" in said
    assert f"no temperature is applied: {folder / 'one' / 'calibration.json'} is not there" in said
    _, plain = ask("two", overrides=[FULL])
    softened = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    is_read = np.arange(NUM_ROWS) != BAD_ROW
    assert np.abs(two - softened)[is_read].max() <= 1e-9
    assert np.array_equal(two[BAD_ROW], plain[BAD_ROW]), "class shares know nothing that a temperature could change"


@pytest.mark.parametrize(
    ("changes", "overrides", "reason"),
    [
        ({}, [FULL], ""),
        (
            {"applies": False, "gain": -0.0001, "interval": (-0.03, 0.01)},
            [FULL, CALIBRATED],
            "it is not sure to make the log loss better: 0.0001 worse (95 % interval -0.0100 to 0.0300, which may",
        ),
        ({"step": 2}, [FULL, CALIBRATED], "it was fitted on step 2, and these are logits of step 3"),
        ({}, [CALIBRATED], "it was fitted with evaluate.swap=full, and these logits are made with none"),
        (
            {"orders": "selective (0.1)"},
            ["evaluate.swap=selective", CALIBRATED],
            "it was fitted with evaluate.swap=selective (0.1), and these logits are made with selective (0.3)",
        ),
        ({"num_learnt": 4}, [FULL, CALIBRATED], "the model has learnt from 4 of the 30 rows that it was fitted on"),
        ({"num_learnt": None}, [FULL, CALIBRATED], "nobody knows whether the model has learnt from the rows"),
    ],
)
def test_a_temperature_that_is_not_of_these_logits_is_not_applied(folder, ask, capsys, changes, overrides, reason):
    values = {"temperature": 2.0, "applies": True, "interval": (0.01, 0.03), "gain": 0.02, "step": 3, "orders": "full",
              "num_rows": 30, "num_learnt": 0, **changes}  # fmt: skip
    write_calibration(RunDir(folder / "two").calibration, Calibration(**values))
    result, found = ask("two", overrides=overrides)
    assert result.temperatures == [None]
    _, plain = ask("two", overrides=[name for name in overrides if name != CALIBRATED])
    assert np.array_equal(found, plain)
    assert f"no temperature is applied: {reason}" in capsys.readouterr().err if reason else True


def test_a_damaged_calibration_is_an_error_with_the_remedy(folder, ask):
    path = RunDir(folder / "two").calibration
    path.write_text(json.dumps({"temperature": 2.0}))
    with pytest.raises(CheckpointError, match=r"calibration\.json is damaged .*pref-dist evaluate"):
        ask("two", overrides=[CALIBRATED])
    path.unlink()


def test_a_time_limit_drops_the_second_order_and_never_a_row(ask, capsys):
    _, once = ask("one", "two")
    late, found = ask("one", "two", overrides=[FULL], time_limit_minutes=1e-6)
    assert late.num_both_orders == 0
    assert np.abs(found - once).max() <= 1e-12
    assert capsys.readouterr().err.count("WARNING: --time-limit-minutes=1e-06 was over") == 2
    _, both = ask("one", "two", overrides=[FULL])
    in_time, found = ask("one", "two", overrides=[FULL], time_limit_minutes=60)
    assert in_time.num_both_orders == NUM_ROWS - 1
    assert np.abs(found - both).max() <= 1e-6
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda sample: sample.drop(index=3),
            r"1 ids of --data do not stand in it \(first: test-7-000003\)\. It has 59",
        ),
        (
            lambda sample: pd.concat([sample, sample.head(1).assign(id="new")]),
            r"1 of its ids are missing in --data \(first: new\)\. It has 61 rows, and the submission would have 60",
        ),
        (lambda sample: sample.iloc[::-1], r"same ids as --data in another order \(first in row 1: "),
        (lambda sample: pd.concat([sample, sample.head(1)]), r"twice\. It has 61 rows"),
        (lambda sample: sample[["id", *WINNER_COLUMNS[::-1]]], r"has the columns \['id', 'winner_tie'"),
    ],
)
def test_a_sample_of_other_rows_or_columns_is_refused_and_nothing_is_written(
    ask, tmp_path, sample_dir, change, message
):
    sample = pd.read_csv(sample_dir / "test.csv", dtype=str)[["id"]].assign(**dict.fromkeys(WINNER_COLUMNS, 1 / 3))
    sample.to_csv(tmp_path / "right.csv", index=False)
    change(sample).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(DataError, match=message):
        ask("one", sample_submission=tmp_path / "wrong.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_sample_of_the_same_rows_is_taken(ask, tmp_path, sample_dir):
    sample = pd.read_csv(sample_dir / "test.csv", dtype=str)[["id"]].assign(**dict.fromkeys(WINNER_COLUMNS, 1 / 3))
    sample.to_csv(tmp_path / "sample.csv", index=False)
    result, _ = ask("one", sample_submission=tmp_path / "sample.csv")
    assert result.num_rows == NUM_ROWS


def test_a_row_that_some_runs_can_read_is_the_mean_of_those_alone(folder, ask, tmp_path):
    shutil.copytree(folder / "two", tmp_path / "keeper")
    settings = yaml.safe_load((tmp_path / "keeper/config.yaml").read_text())
    settings["data"]["checks"] = {"bad_json": "keep", "turn_count_differs": "keep"}
    (tmp_path / "keeper/config.yaml").write_text(yaml.safe_dump(settings))
    _, one = ask("one")
    keeper_alone, keeper = ask(tmp_path / "keeper")
    result, both = ask("one", tmp_path / "keeper")
    assert (keeper_alone.num_prior, result.num_prior, result.num_partly) == (0, 0, 1)
    assert np.abs(both[BAD_ROW] - keeper[BAD_ROW]).max() <= 1e-12
    is_read = np.arange(NUM_ROWS) != BAD_ROW
    assert np.abs(both - (one + keeper) / 2)[is_read].max() <= 1e-12


@pytest.fixture(scope="module")
def exported(folder):
    """The run `two` with a temperature, exported."""
    run_dir = RunDir(folder / "two")
    write_calibration(run_dir.calibration, Calibration(2.0, True, (0.01, 0.03), 0.02, 3, "full", 30, 0))
    out = export(run_dir.root, folder / "exported").out
    run_dir.calibration.unlink()
    return out


@pytest.mark.usefixtures("exported")
def test_an_export_predicts_as_its_run_with_class_shares_and_temperature(ask):
    overrides = (FULL, CALIBRATED)
    result, found = ask("exported", overrides=overrides)
    (_, plain), (_, mean) = ask("two", overrides=[FULL]), ask("exported", "one", overrides=overrides)
    assert (result.num_prior, result.temperatures) == (1, [2.0])
    is_read = np.arange(NUM_ROWS) != BAD_ROW
    assert np.array_equal(found[BAD_ROW], plain[BAD_ROW])
    assert not np.isclose(found[is_read], plain[is_read], atol=1e-6).all(axis=1).any(), "all are tempered"
    _, one = ask("one", overrides=overrides)
    assert np.abs(mean - (found + one) / 2).max() <= 1e-12
    assert np.abs(ask("exported", overrides=[FULL])[1] - plain).max() <= 1e-6


def test_an_export_reads_the_rows_that_its_run_would_read(folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "keeper", ignore=shutil.ignore_patterns(".lock"))
    values = yaml.safe_load((tmp_path / "keeper" / "config.yaml").read_text())
    values["data"]["bad_rows"] = "keep"
    (tmp_path / "keeper" / "config.yaml").write_text(yaml.safe_dump(values))
    export(tmp_path / "keeper", tmp_path / "kept")
    assert predict([tmp_path / "kept"], folder / "test.csv", tmp_path / "out.csv").num_prior == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": "2"}, ModelError, r"exported is an exported model, which holds step 3 alone; checkpoint=2"),
        ({"overrides": ["evaluate.quantize=int8"]}, ConfigError, r"held-out rows first, and .*exported, an exported"),
        ({"overrides": ["data.max_tokens=9"]}, ConfigError, "the weights of a trained run depend on it"),
    ],
)
@pytest.mark.usefixtures("exported")
def test_what_an_export_cannot_do_is_said(ask, options, error, message):
    with pytest.raises(error, match=message):
        ask("exported", **options)


def test_other_verbs_say_that_an_export_is_no_run(exported):
    with pytest.raises(ConfigError, match=r"exported is an exported model and no run: only `predict`"):
        evaluate(exported)


def test_what_cannot_be_meant_is_refused(folder, ask, tmp_path):
    with pytest.raises(ConfigError, match="stands twice among the runs"):
        ask("one", "one")
    with pytest.raises(ConfigError, match=r"time-limit-minutes=0 must be more than 0"):
        ask("one", time_limit_minutes=0)
    with pytest.raises(CheckpointError, match=r"step_000009 does not exist"):
        ask("one", checkpoint="9")
    with pytest.raises(ConfigError, match="is no run folder"):
        ask("three")


def test_two_jobs_do_not_throw_away_each_others_finished_batches(folder, tmp_path):
    parallel = start_parallel(ParallelSection())
    out = tmp_path / "out.csv"
    with only_one_job(parts_beside(out), parallel):
        with pytest.raises(DataError, match=r"Another process keeps its finished batches in .*out\.csv\.parts.*--out"):
            predict([folder / "one"], folder / "test.csv", out)
        assert parts_beside(out).is_dir()
    assert not list(tmp_path.iterdir()), "nothing is left of a job that did nothing"
    assert predict([folder / "one"], folder / "test.csv", out).num_rows == NUM_ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_run_without_a_checkpoint_is_refused_before_any_work(folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    with pytest.raises(CheckpointError, match=r"step_000003 does not exist\. Steps that are there: \[\]"):
        predict([tmp_path / "bare"], folder / "test.csv", tmp_path / "out.csv")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        predict([tmp_path / "bare"], folder / "test.csv", tmp_path / "out.csv", PredictOptions(checkpoint="last"))
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]
