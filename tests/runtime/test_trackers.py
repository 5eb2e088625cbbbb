"""Trackers on their own: what is missing is said, what fails is left out, what is done again stands once."""

import io
import math

import numpy as np
import pytest

from pref_dist.errors import ConfigError
from pref_dist.runtime.log import MetricsLog, Speaker
from pref_dist.runtime.parallel import stand_alone
from pref_dist.runtime.trackers import TrackedRun, check_trackers, flatten, is_installed, name_values, tracking
from tests.tracked_files import read_tensorboard


def line(step: int, loss: float) -> dict[str, object]:
    return {"step": step, "epoch": 0, "loss": loss, "skipped": True}


def track(tmp_path, step: int, records, breaks: bool = False) -> str:
    """Log lines as a run does that goes on from `step`; return what was said."""
    said = io.StringIO()
    log = MetricsLog(tmp_path / "metrics.jsonl", is_main=True)
    run = TrackedRun("run", tmp_path / "logs", {"train": {"epochs": 1, "lora": None}}, step)
    with tracking(["tensorboard"], run, log, Speaker(True, said)):
        for record in records:
            log.append(record)
        if breaks:
            raise RuntimeError("the run has failed")
    return said.getvalue()


def test_a_package_that_is_missing_is_named_with_its_remedy_and_a_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "folder_of_wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("folder_of_wandb")
    assert is_installed("tensorboard")
    with pytest.raises(ConfigError, match=r"run\.trackers=\[tensorboard, nowhere\].*pip install nowhere"):
        check_trackers(["tensorboard", "nowhere"], stand_alone("cpu"))
    check_trackers(["tensorboard"], stand_alone("cpu"))


def test_steps_that_are_done_again_after_a_crash_stand_once(tmp_path):
    with pytest.raises(RuntimeError):
        track(tmp_path, 0, [line(step, 1.0) for step in range(1, 6)], breaks=True)
    track(tmp_path, 3, [line(step, 0.5) for step in range(4, 8)])
    curves = read_tensorboard(tmp_path / "logs" / "tensorboard")
    losses = [curves["train/loss", step] for step in range(1, 8)]
    assert losses == [[1.0]] * 3 + [[0.5]] * 4
    assert len(list((tmp_path / "logs").rglob("hparams.yml"))) == 1


def test_a_tracker_that_cannot_start_is_said_once_and_the_lines_are_written_all_the_same(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    said = track(tmp_path, 0, [line(1, 1.0), line(2, 0.5)])
    assert said.count("WARNING") == said.count("\n") == 1
    assert "the tracker tensorboard has failed (" in said
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_numbers_are_named_by_what_they_are_of_and_nothing_else_is_a_curve():
    assert name_values(line(3, 0.25)) == {"train/epoch": 0.0, "train/loss": 0.25, "train/skipped": 1.0}
    values = name_values({"step": 3, "log_loss": math.nan, "best": None, "why": "text"})
    assert list(values) == ["valid/log_loss"]
    assert np.isnan(values["valid/log_loss"])
    assert flatten({"data": {"train": None, "sources": [{"path": "a"}], "checks": {"in_test": "keep"}}}) == {
        "data.train": None,
        "data.sources": '[{"path": "a"}]',
        "data.checks.in_test": "keep",
    }
