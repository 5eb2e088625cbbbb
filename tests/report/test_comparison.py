"""Runs side by side: the difference on the rows that both have scored, and what sets the runs apart."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pref_dist.cli.report import report
from pref_dist.data.ingest import SourceRequest
from pref_dist.data.pairs import pair_of
from pref_dist.data.validate import read_checked_rows
from pref_dist.errors import CheckpointError, ConfigError, DataError
from pref_dist.evaluate.logits_file import Origin, RowLogits, read_logits, write_logits
from pref_dist.metrics import row_log_losses
from pref_dist.report import write_comparison
from tests.page_checks import check_points_nowhere, exact_numbers, section_of, text_of
from tests.report.full_run import SCRIPT, write_full_run

FURTHEST = "rows-that-differ-most"


@pytest.fixture
def two_runs(tmp_path):
    """A good run, and one on the same rows whose logits are noisier."""
    return write_full_run(tmp_path / "good", noise=0.5), write_full_run(tmp_path / "noisy", noise=3.0)


def compare(runs: tuple[Path, ...], out: Path) -> tuple[str, dict]:
    page = write_comparison(runs, out).read_text(encoding="utf-8")
    return page, json.loads((out / "comparison.json").read_text())


def losses_of(run: Path) -> np.ndarray:
    rows = read_logits(run / "valid_logits.parquet")
    return row_log_losses(rows.logits, rows.targets)


def answers_of(run: Path) -> np.ndarray:
    return read_logits(run / "valid_logits.parquet").logits.argmax(axis=1)


def rewrite_logits(run: Path, **changes) -> None:
    """Write a run's logits again with other ids, logits or targets."""
    rows = read_logits(run / "valid_logits.parquet")
    values = {"row_ids": rows.row_ids, "logits": rows.logits, "targets": rows.targets, "origin": rows.origin} | changes
    write_logits(run / "valid_logits.parquet", RowLogits(**values))


def test_the_difference_is_that_of_the_log_losses_and_its_interval_lies_above_zero(two_runs, tmp_path):
    page, numbers = compare(two_runs, tmp_path / "out")
    losses = [losses_of(run) for run in two_runs]
    (paired,) = numbers["rows"][0]["pairs"]
    assert paired["num_rows"] == 400
    assert paired["difference"] == pytest.approx((losses[1] - losses[0]).mean(), abs=1e-12)
    low, high = paired["interval"]
    assert 0 < low < paired["difference"] < high
    shown = exact_numbers(section_of(page, "differences"))
    assert {paired["difference"], low, high, *paired["log_losses"]} <= set(shown)


def test_a_run_that_is_shifted_by_a_constant_has_exactly_that_difference(two_runs, tmp_path):
    good, other = two_runs
    rows = read_logits(good / "valid_logits.parquet")
    # The log loss of a row grows by 0.25 where every other class gains what makes the true one exp(-0.25) as likely.
    chances = np.exp(-row_log_losses(rows.logits, rows.targets))
    lower = chances * np.exp(-0.25)
    logits = np.log(np.where(rows.targets == 1.0, lower[:, None], (1.0 - lower[:, None]) / 2))
    rewrite_logits(other, logits=logits)
    (paired,) = compare(two_runs, tmp_path / "out")[1]["rows"][0]["pairs"]
    assert [paired["difference"], *paired["interval"]] == pytest.approx([0.25, 0.25, 0.25], abs=1e-9)


def test_only_rows_that_are_the_same_in_id_texts_and_order_count(two_runs, tmp_path):
    rows = read_logits(two_runs[1] / "valid_logits.parquet")
    ids, pairs, mirrored = list(rows.row_ids), rows.origin.pairs.copy(), rows.origin.is_mirrored.copy()
    ids[0], pairs[1], mirrored[2] = "another", 5, not mirrored[2]
    targets = rows.targets.copy()
    targets[3] = np.roll(targets[3], 1)
    rewrite_logits(two_runs[1], row_ids=ids, origin=Origin(rows.origin.groups, pairs, mirrored, None), targets=targets)
    page, numbers = compare(two_runs, tmp_path / "out")
    (paired,) = numbers["rows"][0]["pairs"]
    assert (paired["num_rows"], paired["num_relabelled"]) == (396, 1)
    assert "1 common rows have other labels" in text_of(section_of(page, "differences"))


def test_runs_without_a_common_row_say_so_and_give_no_figure(two_runs, tmp_path):
    rewrite_logits(two_runs[1], row_ids=[f"other{number}" for number in range(400)])
    page, numbers = compare(two_runs, tmp_path / "out")
    (paired,) = numbers["rows"][0]["pairs"]
    assert (paired["num_rows"], paired["difference"], paired["interval"]) == (0, None, None)
    assert "No figure: no row in common." in text_of(section_of(page, "differences"))
    assert "Not known" in text_of(section_of(page, FURTHEST))


def test_one_prompt_has_a_difference_without_an_interval(two_runs, tmp_path):
    for run in two_runs:
        rows = read_logits(run / "valid_logits.parquet")
        origin = rows.origin
        rewrite_logits(run, origin=Origin(np.zeros(400, np.uint64), origin.pairs, origin.is_mirrored, None))
    (paired,) = compare(two_runs, tmp_path / "out")[1]["rows"][0]["pairs"]
    assert paired["interval"] is None
    assert paired["difference"] > 0


def test_every_pair_of_three_runs_is_compared_the_first_run_first(two_runs, tmp_path):
    third = write_full_run(tmp_path / "third", noise=1.0)
    page, numbers = compare((*two_runs, third), tmp_path / "out")
    pairs = [(paired["first"], paired["second"]) for paired in numbers["rows"][0]["pairs"]]
    assert pairs == [("good", "noisy"), ("good", "third"), ("noisy", "third")]
    assert page.count('class="key run3') > 0


def test_rows_of_a_file_that_two_runs_were_evaluated_on_are_compared_too(two_runs, tmp_path):
    for run in two_runs:
        folder = run / "evaluations" / "test_labels"
        folder.mkdir(parents=True)
        (folder / "logits.parquet").write_bytes((run / "valid_logits.parquet").read_bytes())
    assert [rows["name"] for rows in compare(two_runs, tmp_path / "out")[1]["rows"]][1:] == ["test_labels"]


def test_metrics_stand_side_by_side_with_their_intervals(two_runs, tmp_path):
    shown = set(exact_numbers(section_of(compare(two_runs, tmp_path / "out")[0], "summary")))
    for run in two_runs:
        metrics = json.loads((run / "metrics.json").read_text())
        assert {metrics[key] for key in ("log_loss", "accuracy", "macro_f1", "brier", "ece", "auc")} <= shown
        assert set(metrics["intervals"]["log_loss"]) <= shown


def test_when_how_often_and_where_each_run_was_trained_stands_side_by_side(two_runs, tmp_path):
    (two_runs[1] / "starts.json").unlink()
    page, numbers = compare(two_runs, tmp_path / "out")
    words = text_of(section_of(page, "summary"))
    assert "Started 2026-05-01 20:00:00 UTC the last of 3 times 2026-05-02 05:59:00 UTC not recorded" in words
    assert "Wall time 90.0 s in 2 of 3 starts, whose end is recorded not recorded" in words
    assert "Trained on node7 zero2, 16 ranks, 8 of them there, NVIDIA H100 not recorded" in words
    assert [len(run["starts"]) for run in numbers["runs"]] == [3, 0]


def test_only_settings_that_differ_are_shown(two_runs, tmp_path):
    config = two_runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 2.0e-05", "learning_rate: 3.0e-05"))
    page, numbers = compare(two_runs, tmp_path / "out")
    assert numbers["settings"] == {"train.learning_rate": ["2e-05", "3e-05"]}
    assert "train.learning_rate 2e-05 3e-05" in text_of(section_of(page, "settings"))
    assert "batch" not in text_of(section_of(page, "settings"))


def test_runs_of_different_data_are_told_apart(tmp_path):
    runs = (write_full_run(tmp_path / "one"), write_full_run(tmp_path / "other", train="others.csv"))
    words = text_of(section_of(compare(runs, tmp_path / "out")[0], "summary"))
    assert "The runs were trained on different data (one: rows.csv; other: others.csv)." in words


def test_learning_curves_are_drawn_over_steps_rows_and_time(two_runs, tmp_path):
    section = section_of(compare(two_runs, tmp_path / "out")[0], "curves")
    assert re.findall(r"<figcaption><b>([^<]*)", section) == ["Over steps", "Over rows", "Over time"]


def test_rows_that_differ_most_show_the_texts_that_the_sources_still_hold(tmp_path, sample_dir):
    source = tmp_path / "train.csv"
    source.write_text((sample_dir / "train.csv").read_text().replace("What", f"{SCRIPT} What"))
    rows = read_checked_rows(SourceRequest(source)).rows
    runs = [write_full_run(tmp_path / f"run{noise}", len(rows), noise, str(source)) for noise in (1, 4)]
    for run in runs:
        name_as(run, rows)
    page, _ = compare(tuple(runs), tmp_path / "out")
    section = section_of(page, FURTHEST)
    losses, answers = [losses_of(run) for run in runs], [answers_of(run) for run in runs]
    assert f"different classes in {(answers[0] != answers[1]).sum()} of {len(rows)} common rows" in text_of(section)
    assert "whose losses differ most between the first run and each other one, also where both predict the" in text_of(
        section
    )
    worst = rows[int(np.abs(losses[1] - losses[0]).argmax())]
    first = section.split("<details")[1]
    assert worst.id in first
    assert worst.turns[0].response_b in text_of(first)
    assert SCRIPT in text_of(section)
    check_points_nowhere(page)


def name_as(run: Path, rows: list) -> None:
    """Give the logits of a run the ids and hashes of real rows."""
    found = [pair_of(row.turns) for row in rows]
    pairs, mirrored = np.array([pair for pair, _ in found], np.uint64), np.array([flag for _, flag in found])
    groups = np.arange(len(rows), dtype=np.uint64)
    rewrite_logits(run, row_ids=[row.id for row in rows], origin=Origin(groups, pairs, mirrored, None))


def test_rows_that_differ_most_without_the_sources_show_ids_and_say_why(two_runs, tmp_path):
    words = text_of(section_of(compare(two_runs, tmp_path / "out")[0], FURTHEST))
    assert "Texts are missing, since the sources cannot be read: " in words
    assert "Without its texts." in words


def test_the_same_folders_give_the_same_bytes(two_runs, tmp_path):
    pages = [write_comparison(two_runs, tmp_path / name) for name in ("one", "two")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_runs_that_nobody_has_evaluated_are_compared_as_far_as_they_go(two_runs, tmp_path):
    for name in ("metrics.json", "valid_logits.parquet", "best.json", "metrics.jsonl"):
        (two_runs[1] / name).unlink()
    page, numbers = compare(two_runs, tmp_path / "out")
    assert "without metrics.json: noisy" in text_of(section_of(page, "summary"))
    assert numbers["rows"] == []
    assert "fewer than two of the runs hold valid_logits.parquet" in text_of(section_of(page, "differences"))


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [write_full_run(tmp_path / parent / "run") for parent in ("x", "y")]
    numbers = compare(tuple(runs), tmp_path / "out")[1]
    assert [run["name"] for run in numbers["runs"]] == [str(run) for run in runs]


def test_what_cannot_be_compared_is_an_error_that_names_it(two_runs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="good is named twice"):
        write_comparison((two_runs[0], two_runs[0]), out)
    with pytest.raises(ConfigError, match="is no run folder"):
        write_comparison((two_runs[0], tmp_path), out)
    (two_runs[1] / "valid_logits.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"noisy/valid_logits\.parquet cannot be read"):
        write_comparison(two_runs, out)
    (two_runs[1] / "metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json cannot be read"):
        write_comparison(two_runs, out)
    assert not out.exists()


def test_the_verb_takes_several_runs_and_a_folder(two_runs, tmp_path):
    folders, runner, out = [str(run) for run in two_runs], CliRunner(), tmp_path / "out"
    assert "2 runs need --out DIR" in runner.invoke(report, folders).output
    found = runner.invoke(report, [*folders, "--out", str(out)])
    assert found.output.splitlines() == [f"written: {out / 'comparison.json'}", f"written: {out / 'report.html'}"]
    refused = runner.invoke(report, [*folders, "--out", str(out / "report.html")])
    assert (refused.exit_code, "is a file" in refused.output) == (2, True)
    alone = runner.invoke(report, [folders[0], "--out", str(out)])
    assert (alone.exit_code, "is a folder" in alone.output) == (2, True)


def test_a_file_that_cannot_tell_its_rows_gives_no_figure(two_runs, tmp_path):
    rewrite_logits(two_runs[1], origin=None)
    words = text_of(section_of(compare(two_runs, tmp_path / "out")[0], "differences"))
    assert "No figure: a file lacks the columns that tell its rows" in words


def test_rows_that_a_model_has_learnt_from_are_told(two_runs, tmp_path):
    origin = read_logits(two_runs[0] / "valid_logits.parquet").origin
    learnt = np.arange(400) >= 7
    rewrite_logits(two_runs[0], origin=Origin(origin.groups, origin.pairs, origin.is_mirrored, learnt))
    words = text_of(section_of(compare(two_runs, tmp_path / "out")[0], "differences"))
    assert "One of the models has learnt from 7 of these rows." in words
