"""The end of a job's time: a run stops as early as its own steps and saves need."""

from pathlib import Path

import pytest

from pref_dist.runtime.deadline import END_TIME_VARIABLE, MARGIN_SECONDS, Deadline
from pref_dist.runtime.preempt import LAUNCH_DIR_VARIABLE, StopRequest

START = 1_000_000.0


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds


def seconds_left_at_stop(step_seconds: float, save_seconds: float, limit: float = 1000.0) -> float:
    """How long before the end a run with such steps is told to stop."""
    clock = Clock()
    deadline = Deadline({END_TIME_VARIABLE: str(int(START + limit))}, lambda: save_seconds, clock)
    while not deadline.reason():
        clock.step(step_seconds)
    return START + limit - clock.now


@pytest.mark.parametrize(("step_seconds", "save_seconds"), [(0.1, 0.1), (20.0, 0.1), (0.1, 100.0), (60.0, 100.0)])
def test_a_step_and_the_saves_fit_before_the_end_and_little_more_is_lost(step_seconds, save_seconds):
    left = seconds_left_at_stop(step_seconds, save_seconds)
    needed = MARGIN_SECONDS + 2 * save_seconds
    assert needed < left <= needed + step_seconds + 0.2


def test_the_longest_pause_between_two_borders_counts_such_as_an_evaluation():
    clock = Clock()
    deadline = Deadline({END_TIME_VARIABLE: str(int(START + 1000))}, lambda: 0.0, clock)
    for seconds in (0.0, 20.0, 1.0, 300.0, 1.0):
        clock.step(seconds)
        assert not deadline.reason()
    clock.step(348.0)
    assert "a step and a save may take 378 s" in deadline.reason()


def test_a_slow_first_step_counts_until_there_is_another():
    clock = Clock()
    deadline = Deadline({END_TIME_VARIABLE: str(int(START + 1000))}, lambda: 0.0, clock)
    for seconds, lead_seconds in ((0.0, 30.0), (200.0, 230.0), (1.0, 31.0), (2.0, 32.0)):
        clock.step(seconds)
        assert not deadline.reason()
        assert deadline.lead_seconds == lead_seconds


def test_the_duration_of_saves_is_asked_for_at_each_border():
    clock, seconds = Clock(), [1.0]
    deadline = Deadline({END_TIME_VARIABLE: str(int(START + 100))}, lambda: seconds[0], clock)
    assert not deadline.reason()
    seconds[0] = 40.0
    assert "a save may take 110 s" in deadline.reason()


@pytest.mark.parametrize("environ", [{}, {END_TIME_VARIABLE: ""}, {END_TIME_VARIABLE: "NONE"}])
def test_without_an_end_it_never_comes(environ):
    clock = Clock()
    deadline = Deadline(environ, lambda: 0.0, clock)
    clock.step(1e9)
    assert deadline.reason() == ""


def test_the_launcher_learns_that_no_user_has_asked(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(LAUNCH_DIR_VARIABLE, str(tmp_path))
    with StopRequest(()) as stop:
        stop.heed(Deadline({END_TIME_VARIABLE: "1"}, lambda: 0.0))
        assert stop.reason().startswith("the job's time ends in")
        assert (tmp_path / "stop").exists()
