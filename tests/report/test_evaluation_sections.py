"""The sections that metrics.json and its companions fill: each with what it needs, and each without."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pref_dist.cli.evaluate import describe_temperature
from pref_dist.report import write_report
from pref_dist.report.calibration import explain_predict
from pref_dist.report.run_record import read_run_record
from pref_dist.report.scores import judge
from tests.page_checks import check_points_nowhere, exact_numbers, section_of, text_of
from tests.report.full_run import SCRIPT, write_full_run, write_json


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory):
    return write_full_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def page(full_folder):
    return write_report(full_folder).read_text(encoding="utf-8")


@pytest.fixture
def bare_folder(tmp_path):
    """The same run, evaluated by a version that knew log loss and accuracy alone."""
    folder = write_full_run(tmp_path / "bare")
    metrics = json.loads((folder / "metrics.json").read_text())
    write_json(folder / "metrics.json", {key: metrics[key] for key in ("log_loss", "accuracy", "num_rows", "step")})
    for name in ("worst_rows.json", "findings.json", "truncation.json", "calibration.json"):
        (folder / name).unlink()
    return folder


def iterate_numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from iterate_numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        (
            "summary",
            ["log_loss", "accuracy", "macro_f1", "brier", "ece", "auc", "intervals", "baselines", "references"],
        ),
        ("classes", ["classes", "confusion"]),
        ("slices", ["slices"]),
        ("calibration", ["calibration"]),
    ],
)
def test_every_number_of_these_keys_stands_in_its_section(full_folder, page, section, keys):
    metrics = json.loads((full_folder / "metrics.json").read_text())
    # How many rows a baseline was scored on is the caption's.
    wanted = {number for key in keys for number in iterate_numbers(metrics[key])}
    assert wanted <= set(exact_numbers(section_of(page, section)))


def test_the_figures_of_both_orders_and_of_length_stand_under_bias(full_folder, page):
    metrics = json.loads((full_folder / "metrics.json").read_text())
    orders = {key: value for key, value in metrics["orders"].items() if key not in ("curve", "share")}
    bins = [[found["num_rows"], found["predicted"], found["real"]] for found in metrics["verbosity"]]
    section = section_of(page, "bias")
    assert {*iterate_numbers(orders), *iterate_numbers(bins)} <= set(exact_numbers(section))
    words = text_of(section)
    assert "Gain against cost" in words
    assert "−2,000 or less" in words
    assert "+2,000 or more" in words


def test_the_summary_repeats_what_the_gate_says(full_folder, page):
    metrics = json.loads((full_folder / "metrics.json").read_text())
    assert metrics["gate"]["sentence"] in text_of(section_of(page, "summary"))


def test_a_gate_that_fails_is_shown_as_a_failure(tmp_path):
    folder = write_full_run(tmp_path / "failed")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["gate"] |= {"passed": False, "sentence": "It sits at the prior."}
    write_json(folder / "metrics.json", metrics)
    assert '<p class="verdict no">It sits at the prior.</p>' in write_report(folder).read_text()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"passed": True, "interval": [0.1, 0.2]}, "yes"),
        ({"passed": True, "interval": [-0.1, 0.2]}, "perhaps"),
        ({"passed": True, "interval": None}, "perhaps"),
        ({"passed": True, "interval": [0.1, 0.2], "is_prior": True}, "no"),
        ({"passed": False, "interval": [-0.2, -0.1]}, "no"),
    ],
)
def test_a_gain_that_may_be_chance_is_no_plain_yes(changes, verdict):
    assert judge({"gate": {"is_prior": False, "sentence": "So it is."} | changes}) == (verdict, "So it is.")


def test_the_evaluations_stand_under_the_columns_of_the_second_notebook(page):
    table = section_of(page, "curves").split("<table")[1]
    columns = [
        "Step", "Training Loss", "Validation Loss", "Accuracy", "Log Loss", "Runtime", "Samples Per Second",
        "Steps Per Second",
    ]  # fmt: skip
    assert text_of("<table" + table.split("</thead>")[0]) == " ".join(columns)
    assert " 2.0 200.0 12.5" in text_of(table)


def test_a_run_evaluated_long_ago_says_in_each_section_which_command_fills_it(bare_folder):
    page = write_report(bare_folder).read_text()
    for section in ("classes", "slices", "calibration", "bias", "worst-rows"):
        words = text_of(section_of(page, section))
        assert "Not known: " in words
        assert "pref-dist evaluate RUN_DIR" in words
    assert text_of(section_of(page, "data")).count("pref-dist prepare RUN.yaml") == 2
    assert "Without intervals; pref-dist evaluate RUN_DIR finds them." in text_of(section_of(page, "summary"))


def test_one_order_alone_names_the_setting_that_runs_both(bare_folder):
    assert "--set evaluate.swap=full" in text_of(section_of(write_report(bare_folder).read_text(), "bias"))


def test_the_second_order_of_a_share_says_which_share(tmp_path):
    folder = write_full_run(tmp_path / "selective")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["orders"] |= {"mode": "selective", "share": 0.3, "num_rows_both": 120}
    del metrics["orders"]["curve"]
    write_json(folder / "metrics.json", metrics)
    words = text_of(section_of(write_report(folder).read_text(), "bias"))
    assert "least certain 30.0 % of the rows (120)" in words
    assert "Gain against cost" not in words


@pytest.mark.parametrize(
    ("applies", "setting", "sentence"),
    [
        (True, None, "Predictions would get the temperature 1.2100, fitted on 400 held-out rows of the run, under"),
        (True, "none", "Predictions would get the temperature 1.2100"),
        (True, "temperature", "Predictions get the temperature 1.2100, fitted on 400 held-out rows of the run."),
        (False, "temperature", "Predictions do without the temperature 1.2100"),
    ],
)
def test_the_page_says_what_predictions_make_of_the_temperature(full_folder, applies, setting, sentence):
    saved = json.loads((full_folder / "calibration.json").read_text()) | {"applies": applies}
    assert explain_predict(saved, setting).startswith(sentence)


def test_worst_rows_are_those_beside_the_metrics_that_are_shown(tmp_path):
    folder = write_full_run(tmp_path / "run")
    other = folder / "evaluations" / "test_labels"
    other.mkdir(parents=True)
    (other / "metrics.json").write_bytes((folder / "metrics.json").read_bytes())
    assert read_run_record(folder).worst_rows is None
    rows = json.loads((folder / "worst_rows.json").read_text())
    write_json(other / "worst_rows.json", rows[2:3])
    assert read_run_record(folder).worst_rows == rows[2:3]


def test_texts_of_worst_rows_are_shown_and_never_run(page):
    section = section_of(page, "worst-rows")
    assert "<script" not in page
    assert section.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6
    assert SCRIPT in text_of(section)
    assert "&lt;/pre&gt;&lt;b&gt;x&lt;/b&gt;" in section
    check_points_nowhere(page)


def test_the_audit_lists_findings_with_what_was_done(page):
    words = text_of(section_of(page, "data"))
    assert "identical responses 17 keep rows.csv row 12, 40" in words


def test_the_data_section_counts_the_rows_that_are_held_out(page):
    words = text_of(section_of(page, "data"))
    held_out = "163 of 1,883 rows (8.7 %) are held out (data.valid_fraction=0.1, data.split=grouped_hash)."
    assert f"Trained on rows.csv, of which {held_out}" in words


def test_the_environment_is_that_of_the_training_each_start_with_its_end(page):
    words = text_of(section_of(page, "environment"))
    starts = (
        "2026-05-01 20:00:00 UTC 0 2026-05-01 20:00:30 UTC stopped at step 12: signal SIGINT laptop single, 1 rank cpu",
        "2026-05-01 21:00:00 UTC 12 not recorded going on, failed or killed node7 zero2, 16 ranks, 8 of them there",
        "2026-05-02 05:59:00 UTC 12 2026-05-02 06:00:00 UTC finished at step 60 node7 zero2",
    )
    assert [words.count(start) for start in starts] == [1, 1, 1]
    assert "Software of the training python 3.12.9 torch 2.13.0 At the last start" in words
    assert "Software that wrote this page" in words


def test_the_summary_says_when_and_where_the_run_was_trained(page):
    words = text_of(section_of(page, "summary"))
    assert (
        "Training started 2026-05-01 20:00:00 UTC and again, the last of 3 times, 2026-05-02 05:59:00 UTC, on node7 "
        "(zero2, 16 ranks, 8 of them there, NVIDIA H100). Wall time: 90.0 s in 2 of 3 starts, whose end is recorded."
    ) in words


@pytest.mark.parametrize(
    ("gain", "interval", "sentence"),
    [
        (-0.005, [-0.009, 0.001], "0.0050 worse (95 % interval -0.0010 to 0.0090, which may be chance)."),
        (0.005, [0.001, 0.009], "0.0050 better (95 % interval 0.0010 to 0.0090)."),
        (0.005, None, "0.0050 better (one prompt: no interval)."),
    ],
)
def test_what_a_temperature_does_is_said_in_words_and_not_by_a_sign(tmp_path, gain, interval, sentence):
    folder = write_full_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["calibration"] |= {"gain": gain, "interval": interval}
    write_json(folder / "metrics.json", metrics)
    words = text_of(section_of(write_report(folder).read_text(), "calibration"))
    assert f"The temperature would make the log loss {sentence}" in words
    assert describe_temperature(metrics).endswith(f"would make the log loss {sentence[:-1]}")


def test_half_a_character_in_a_file_is_no_reason_to_have_no_page(tmp_path):
    folder = write_full_run(tmp_path / "run")
    (folder / "rows_set_aside.jsonl").write_text(json.dumps({"kind": "bad_json", "detail": "\ud800"}) + "\n")
    assert "bad_json" in write_report(folder).read_text(encoding="utf-8")


def test_null_metrics_and_empty_lists_leave_a_page(tmp_path):
    folder = write_full_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {
        "intervals": {"log_loss": None}, "slices": [], "verbosity": [], "calibration": None, "orders": None,
        "auc": None, "gate": None, "baselines": {}, "references": {},
    }  # fmt: skip
    metrics["classes"]["tie"] |= {"log_loss": None, "auc": None, "precision": None}
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "worst_rows.json", [])
    page = write_report(folder).read_text()
    assert text_of(section_of(page, "classes")).count("none") >= 3
    assert "Not known" in text_of(section_of(page, "calibration"))
