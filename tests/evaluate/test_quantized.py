"""Evaluation in 8-bit integers: only if held-out rows allow it, and for each row alone."""

import re
import shutil

import numpy as np
import pytest

from pref_dist.config.load import build_config, load_config
from pref_dist.errors import ConfigError, DataError, ModelError
from pref_dist.evaluate.run import EvaluateOptions, evaluate
from pref_dist.predict import PredictOptions, predict
from pref_dist.submission import read_probabilities
from pref_dist.train.run import train
from tests.tiny_runs import TinyRuns

INT8 = "evaluate.quantize=int8"
ANYTHING = "evaluate.quantize_tolerance=10"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    runs = TinyRuns(tmp_path_factory.mktemp("quantized"), sample_dir / "train.csv", tiny_model, cache_dir)
    # So far and so hard that rounding costs something.
    settings = {"max_steps": 120, "epochs": 10, "learning_rate": 5e-3}
    run_yaml, run_dir = runs.write("run", run={"seed": 2}, train=settings)
    train(load_config(run_yaml, []))
    return run_dir


def log_losses(err):
    """Return those that the gate has said, in int8 and without."""
    found = re.search(r"int8: log loss ([\d.]+) on \d+ held-out rows, without it ([\d.]+)", err)
    return float(found[1]), float(found[2])


def test_evaluate_answers_in_int8_and_says_what_that_costs(trained, capsys):
    plain = evaluate(trained, EvaluateOptions(baselines=False)).metrics["log_loss"]
    narrow = evaluate(trained, EvaluateOptions(baselines=False), [INT8, ANYTHING]).metrics["log_loss"]
    said, said_without = log_losses(capsys.readouterr().err)
    assert narrow != plain
    assert abs(narrow - plain) < 0.02
    # The tiny run holds out fewer rows than the gate looks at.
    assert (said, said_without) == pytest.approx((narrow, plain), abs=1e-5)


def test_predictions_are_the_same_whatever_the_token_budget(trained, sample_dir, tmp_path):
    tables = []
    for budget in (300, 3000):
        out = tmp_path / f"{budget}.csv"
        overrides = [INT8, ANYTHING, f"evaluate.token_budget={budget}"]
        predict([trained], sample_dir / "test.csv", out, PredictOptions(overrides=overrides))
        tables.append(read_probabilities(out).to_numpy())
    np.testing.assert_allclose(tables[0], tables[1], rtol=0, atol=1e-6)


def test_a_loss_above_the_tolerance_is_refused_with_both_values(trained, capsys):
    evaluate(trained, EvaluateOptions(baselines=False), [INT8, ANYTHING])
    narrow, plain = log_losses(capsys.readouterr().err)
    assert narrow > plain + 5e-5, "choose another run: this one loses nothing by rounding"
    with pytest.raises(ModelError, match=rf"log loss of {narrow}.*gives {plain}.*quantize_tolerance=5e-05\. Set"):
        evaluate(trained, EvaluateOptions(baselines=False), [INT8, "evaluate.quantize_tolerance=0.00005"])


def test_what_is_said_in_int8_never_takes_the_place_of_what_the_run_says(trained):
    before = {path.name: path.read_bytes() for path in trained.glob("valid_logits.parquet")}
    result = evaluate(trained, EvaluateOptions(baselines=False), [INT8, ANYTHING])
    assert result.folder == trained / "evaluations" / "valid_best_int8"
    assert result.metrics["quantize"] == "int8"
    assert {path.name: path.read_bytes() for path in trained.glob("valid_logits.parquet")} == before


def test_a_run_goes_on_with_int8_in_its_config(trained):
    assert train(load_config(trained / "config.yaml", [INT8])).metrics


def test_rows_that_are_gone_are_asked_for(trained, sample_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(sample_dir / "train.csv"), str(tmp_path / "gone.csv")))
    with pytest.raises(DataError, match=r"held-out rows first, and they are not there: .*gone\.csv[\s\S]*set evaluate"):
        predict([copy], sample_dir / "test.csv", tmp_path / "out.csv", PredictOptions(overrides=[INT8]))


def test_adapters_are_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match=r"not for model\.lora"):
        build_config({"model": {"lora": {}}, "evaluate": {"quantize": "int8"}}, "a test")
