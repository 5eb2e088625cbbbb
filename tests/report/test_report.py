"""The report page: what it says is what the run folder says, and it needs nothing but itself."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest
from click.testing import CliRunner

from pref_dist.cli.report import report
from pref_dist.config.load import load_config, render_config
from pref_dist.errors import CheckpointError, ConfigError
from pref_dist.report import write_report
from pref_dist.report.curves import smooth
from pref_dist.report.figures import thin_out
from pref_dist.report.run_record import read_run_record
from pref_dist.report.scores import list_scores, share_closed
from tests.page_checks import check_points_nowhere, exact_numbers, text_of
from tests.ranks.run_verb import run_verb

METRICS = {
    "log_loss": 0.8012345678901234, "accuracy": 0.6123456789, "num_rows": 600, "step": 3,
    "references": {"bayes": {"log_loss": 0.6, "accuracy": 0.71, "num_rows": 600}},
    "baselines": {
        "class_prior": {"log_loss": 1.1, "accuracy": 0.41},
        "length_tree": {"log_loss": 1.05, "accuracy": 0.44},
        "tfidf_logistic": {"log_loss": 0.95, "accuracy": 0.5},
    },
}  # fmt: skip


def build_step(step: int, **changes: object) -> dict[str, object]:
    values = {"step": step, "epoch": 0, "loss": 1.1 - 0.01 * step, "grad_norm": 0.7, "learning_rate": 1e-5 * step,
              "rows": 16, "tokens": 900, "padding": 0.1, "micro_batches": 2, "seconds": 0.5}  # fmt: skip
    return values | changes


def write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def run_folder(tmp_path):
    """A run of three steps, running, that nobody has evaluated yet."""
    folder = tmp_path / "demo_run"
    folder.mkdir()
    config = load_config(None, ["data.train=rows.csv", "train.precision=fp32"])
    (folder / "config.yaml").write_text(render_config(config), encoding="utf-8")
    (folder / "state.json").write_text(json.dumps({"state": "running", "step": 2, "reason": ""}))
    write_lines(folder / "metrics.jsonl", [build_step(step) for step in (1, 2, 3)])
    return folder


def read_page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture
def trained_run(write_run):
    """A real run of 6 steps, evaluated twice."""
    run_yaml, folder = write_run(train={"max_steps": 6}, evaluate={"every_steps": 3})
    (result,) = run_verb("single", 1, ["train", str(run_yaml)])
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_page_of_a_real_run_shows_the_numbers_of_its_files(trained_run):
    page = read_page(trained_run)
    metrics = json.loads((trained_run / "metrics.json").read_text())
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "log_loss" in line]
    assert len(scores) == 2
    shown = exact_numbers(page)
    for content in (metrics, *scores):
        assert {content["log_loss"], content["accuracy"]} <= set(shown)
        assert f"{content['log_loss']:.4f}" in page
    assert metrics["num_rows"] in shown
    assert sum(line["rows"] for line in lines if "loss" in line) in shown
    assert "finished" in text_of(page)
    words = text_of(page)
    assert f"Log loss on the held-out rows {metrics['log_loss']:.4f}" in words
    (start,) = json.loads((trained_run / "starts.json").read_text())
    assert f"{start['rows']['valid']} of 300 rows (" in words
    assert start["rows"]["valid"] == metrics["num_rows"]
    assert (start["host"], start["backend"], start["ranks"], start["device"]) == (gethostname(), "single", 1, "cpu")
    assert 0 <= (datetime.fromisoformat(start["ended"]) - datetime.fromisoformat(start["started"])).total_seconds() < 60
    assert (
        f"Training started {start['started'].replace('T', ' ')[:19]} UTC, on {start['host']} (single, 1 rank" in words
    )
    assert "Software of the training, and of this page" in words


def test_the_table_holds_the_exact_scores_of_model_reference_and_baselines(run_folder):
    (run_folder / "metrics.json").write_text(json.dumps(METRICS))
    page = read_page(run_folder)
    shown = exact_numbers(page)
    for scores in (METRICS, *METRICS["references"].values(), *METRICS["baselines"].values()):
        assert {scores["log_loss"], scores["accuracy"]} <= set(shown)
    words = text_of(page)
    order = [words.index(f"{name} ") for name in ("bayes reference", "this model", "tfidf logistic baseline")]
    assert order == sorted(order)
    assert "The model beats every baseline; the nearest, tfidf logistic, is 0.1488 nats behind." in words


def test_the_share_closed_is_that_of_the_distance_from_prior_to_reference(run_folder):
    (run_folder / "metrics.json").write_text(json.dumps(METRICS))
    share = (1.1 - METRICS["log_loss"]) / (1.1 - 0.6)
    assert share in exact_numbers(read_page(run_folder))
    closed = {model.name: model.closed for model in list_scores(METRICS)}
    assert closed["class prior"] == 0.0
    assert closed["bayes"] == 1.0


@pytest.mark.parametrize(("prior", "goal"), [(None, 0.6), (1.1, None), (0.6, 0.6), (0.5, 0.6)])
def test_there_is_no_share_without_a_distance(prior, goal):
    assert share_closed(0.8, prior, goal) is None


def test_a_model_that_a_baseline_beats_is_told_so(run_folder):
    (run_folder / "metrics.json").write_text(json.dumps(METRICS | {"log_loss": 1.07}))
    assert "does not beat length tree (1.0500) and tfidf logistic (0.9500)" in text_of(read_page(run_folder))


def test_an_evaluation_of_another_file_is_named_by_it(run_folder):
    folder = run_folder / "evaluations" / "test_labels"
    folder.mkdir(parents=True)
    for path in (folder / "metrics.json", run_folder / "metrics.json"):
        path.write_text(json.dumps(METRICS))
    page = read_page(run_folder)
    assert page.count("On <data") == 1
    assert f"Log loss on test_labels {METRICS['log_loss']:.4f}" in text_of(page)
    assert "rows of test_labels" in text_of(page)


def test_nothing_in_the_page_points_outside_it(run_folder):
    (run_folder / "metrics.json").write_text(json.dumps(METRICS))
    page = read_page(run_folder)
    check_points_nowhere(page)


def test_every_reference_inside_the_pictures_finds_its_element(run_folder):
    page = read_page(run_folder)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert set(used) <= set(ids)


def test_text_from_the_data_is_shown_and_never_run(run_folder):
    evil = "<script>alert('x')</script>\"><img src=http://evil.example/x>"
    config = load_config(run_folder / "config.yaml").model_dump()
    config["data"]["train"] = config["model"]["name"] = f"{evil}.csv"
    (run_folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (run_folder / "state.json").write_text(json.dumps({"state": "stopped", "step": 2, "reason": evil}))
    set_aside = {"file": f"{evil}.csv", "row": 4, "id": evil, "kind": "bad_json", "detail": f"cell holds {evil}"}
    write_lines(run_folder / "rows_set_aside.jsonl", [set_aside])
    beside = {"references": {evil: {"log_loss": 0.6, "accuracy": 0.7}}}
    (run_folder / "metrics.json").write_text(json.dumps(METRICS | beside))
    page = read_page(run_folder)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(") >= 6


def test_rows_set_aside_are_counted_by_kind_and_truncation_is_told(run_folder):
    kinds = ["bad_json", "no_text", "bad_json"]
    rows = [{"file": "rows.csv", "row": 7 + place, "id": "x", "kind": kind, "detail": f"reason {place}"}
            for place, kind in enumerate(kinds)]  # fmt: skip
    write_lines(run_folder / "rows_set_aside.jsonl", rows)
    audit = {"num_rows": 1234, "rows_cut": 12, "share_of_rows_cut": 0.25, "a_later_key": {}}
    (run_folder / "truncation.json").write_text(json.dumps({"train": audit}))
    words = text_of(read_page(run_folder))
    assert "bad_json 2 row 7 of rows.csv reason 0 no_text 1 row 8 of rows.csv reason 1" in words
    assert "rows 1,234 rows cut 12 share of rows cut 25.0 %" in words


def test_an_unfinished_run_has_a_page(run_folder):
    words = text_of(read_page(run_folder))
    assert "This run has not finished: it is going on, or was killed. Its last saved step is 2." in words
    assert "there is no metrics.json" in words
    assert "Rows trained on 48 2,700 tokens" in words


def test_a_run_that_has_only_its_config_has_a_page(run_folder):
    for name in ("state.json", "metrics.jsonl"):
        (run_folder / name).unlink()
    words = text_of(read_page(run_folder))
    assert "not started" in words
    assert "No step was taken yet." in words
    assert "a part is held out (data.valid_fraction=0.1" in words
    assert "Not recorded: the run folder has no starts.json" in words
    for spoilt in ("{", "{}", '[{"started": "today"}]'):
        (run_folder / "starts.json").write_text(spoilt, encoding="utf-8")
        assert "Not recorded: the run folder has no starts.json" in text_of(read_page(run_folder))


def test_a_stopped_run_says_why_and_how_to_go_on(run_folder):
    (run_folder / "state.json").write_text(json.dumps({"state": "stopped", "step": 3, "reason": "SIGTERM"}))
    words = text_of(read_page(run_folder))
    assert "Stopped at step 3: SIGTERM. The same train command goes on from there." in words


def test_a_run_that_ended_early_says_why(run_folder):
    (run_folder / "state.json").write_text(json.dumps({"state": "finished", "step": 3, "reason": "early stop: why"}))
    assert "Finished at step 3: early stop: why." in text_of(read_page(run_folder))


def test_a_failed_run_shows_the_error_of_each_rank(run_folder):
    (run_folder / "state.json").write_text(json.dumps({"state": "failed", "step": 3, "reason": "rank 1: boom"}))
    (run_folder / "failures").mkdir()
    failure = {"exit_code": 7, "step": 3, "error": "TrainingError: the loss is not finite"}
    (run_folder / "failures" / "rank_1.json").write_text(json.dumps(failure))
    words = text_of(read_page(run_folder))
    assert "Failed at step 3: rank 1: boom rank_1, exit code 7 TrainingError: the loss is not finite" in words


@pytest.mark.parametrize("num_steps", [1, 2, 3, 100])
def test_skipped_steps_are_counted_and_marked(run_folder, num_steps):
    steps = [build_step(step) for step in range(1, num_steps + 1)]
    steps[0] |= {"grad_norm": None, "loss": None, "skipped": True, "loss_scale": 65536.0}
    write_lines(run_folder / "metrics.jsonl", steps)
    page = read_page(run_folder)
    assert f"Steps {num_steps} 1 skipped" in text_of(page)
    assert 'class="key bad ticks"' in page


def test_an_evaluation_that_is_not_finite_is_shown_as_none(run_folder):
    scores = {"step": 3, "log_loss": None, "accuracy": 0.3, "num_rows": 40, "seconds": 1.0, "rows_per_second": 40.0}
    steps = [build_step(step, loss=None, grad_norm=None) for step in (1, 2, 3)]
    write_lines(run_folder / "metrics.jsonl", [*steps, scores])
    assert "3 none none 0.300 none 1.0 40.0 none" in text_of(read_page(run_folder))


def test_the_training_loss_of_an_evaluation_is_the_mean_over_the_rows_since_the_one_before(run_folder):
    scores = {"log_loss": 1.0, "accuracy": 0.5, "num_rows": 40, "seconds": 1.0, "rows_per_second": 40.0}
    lines = [build_step(1, loss=5.0), {"step": 1} | scores, build_step(2, loss=1.0, rows=30),
             build_step(3, loss=2.0, rows=10), {"step": 3} | scores]  # fmt: skip
    write_lines(run_folder / "metrics.jsonl", lines)
    words = text_of(read_page(run_folder))
    assert "1 5.0000 1.0000 0.500" in words
    assert "3 1.2500 1.0000 0.500" in words


def test_a_line_that_a_crash_cut_short_is_left_out_and_told(run_folder):
    with open(run_folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert len(read_run_record(run_folder).steps) == 3
    assert "1 damaged line in metrics.jsonl" in text_of(read_page(run_folder))


def test_the_same_folder_gives_the_same_page(run_folder):
    assert read_page(run_folder) == read_page(run_folder)


def test_a_long_run_keeps_its_page_small_and_its_spikes(run_folder):
    steps = [build_step(step, loss=1.0 + (step * 37 % 101) / 100) for step in range(1, 20_001)]
    write_lines(run_folder / "metrics.jsonl", steps)
    assert len(read_page(run_folder)) < 600_000
    x, y = read_losses(run_folder)
    kept_x, kept_y = thin_out(x, y)
    assert len(kept_x) <= 800
    assert (kept_y.min(), kept_y.max()) == (y.min(), y.max())


def read_losses(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    steps = read_run_record(folder).steps
    return np.array([step["step"] for step in steps], float), np.array([step["loss"] for step in steps], float)


def test_smoothing_weighs_by_rows_and_steps_over_gaps():
    values, rows = np.array([1.0, np.nan, 4.0, 4.0]), np.array([1.0, 9.0, 2.0, 2.0])
    assert smooth(values, rows, 3).tolist() == [1.0, 3.0, 4.0, 4.0]
    assert np.isnan(smooth(np.array([np.nan]), np.array([1.0]), 3)).all()


def test_a_folder_that_holds_no_run_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"is no run folder: it has no config\.yaml"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(run_folder):
    (run_folder / "metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json cannot be read"):
        write_report(run_folder)


def test_the_verb_prints_where_the_page_is(run_folder, tmp_path):
    inside = CliRunner().invoke(report, [str(run_folder)])
    assert inside.output.splitlines()[-1] == f"written: {run_folder / 'report.html'}"
    elsewhere = tmp_path / "pages" / "demo.html"
    outside = CliRunner().invoke(report, [str(run_folder), "--out", str(elsewhere)])
    assert outside.output.splitlines()[-1] == f"written: {elsewhere}"
    assert elsewhere.read_bytes() == (run_folder / "report.html").read_bytes()
