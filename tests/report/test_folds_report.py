"""The page about a folder of folds: joined, and on the way."""

import json

import pytest

from pref_dist.errors import CheckpointError
from pref_dist.report import write_report
from tests.page_checks import check_points_nowhere, exact_numbers, section_of, text_of
from tests.report.full_run import write_full_run, write_json


@pytest.fixture
def folds_folder(tmp_path):
    """Three folds, the last of which has not started."""
    folder = tmp_path / "folds"
    for number in (0, 1):
        write_full_run(folder / f"fold_{number}", noise=1.0 + number)
    best = {"step": 45, "log_loss": 0.912345, "accuracy": 0.512345, "num_rows": 400}
    folds = [{"fold": number, "dir": f"fold_{number}", "state": state, "step": step, "reason": "", "best": found}
             for number, state, step, found in [(0, "finished", 60, best), (1, "finished", 60, best),
                                                (2, "waiting", 0, {})]]  # fmt: skip
    write_json(folder / "folds.json", {"num_folds": 3, "joined": False, "folds": folds})
    return folder


def test_folds_on_the_way_show_how_far_each_is(folds_folder):
    page = write_report(folds_folder).read_text()
    words = text_of(section_of(page, "summary"))
    assert "0 finished 60 45 400 0.9123" in words
    assert "2 waiting 0 none none none none" in words
    assert "The folds are not joined yet" in words
    assert "Over steps" in section_of(page, "curves")


def test_joined_folds_show_the_scores_of_all_rows_and_of_each_fold(folds_folder):
    state = json.loads((folds_folder / "folds.json").read_text())
    write_json(folds_folder / "folds.json", state | {"joined": True})
    metrics = json.loads((folds_folder / "fold_0" / "metrics.json").read_text())
    del metrics["step"]
    scores = [{"fold": number, "log_loss": 0.81 + number / 77, "accuracy": 0.6 + number / 77, "num_rows": 133 + number,
               "step": 30 + number} for number in range(3)]  # fmt: skip
    write_json(folds_folder / "metrics.json", metrics | {"folds": scores})
    page = write_report(folds_folder).read_text()
    shown = exact_numbers(section_of(page, "summary"))
    for found in [metrics, *scores]:
        assert {found["log_loss"], found["accuracy"], found["num_rows"]} <= set(shown)
    assert metrics["calibration"]["temperature"] in exact_numbers(section_of(page, "calibration"))
    check_points_nowhere(page)


def test_a_damaged_folds_file_is_named(folds_folder):
    (folds_folder / "folds.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"folds\.json cannot be read"):
        write_report(folds_folder)
