"""What a person sees in a terminal, which is a real pty here: one bar, lines above it, and what Ctrl-C does."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from pref_dist.cli.terminal import Terminal
from tests.launch.launched import clean_env
from tests.ranks.launch_ranks import REPO_ROOT
from tests.terminal_session import CONTROL_C, ESCAPE, TerminalSession

pytestmark = pytest.mark.timeout(300)

COLOUR = re.compile(r"\x1b\[[0-9;]+m")
# How each line of a training begins that nothing is wrong with.
OUR_LINES = (
    "cache ", "rows ", "cut ", "steps ", "batches ", "model ", "ranks ", "run ", "memory ", "step ",
    "finished at step ", "best valid log loss ", "run folder: ",
)  # fmt: skip
STOPPED_TEXT = "Ctrl-C: the run is saved after the step that it is at, and ends. Ctrl-C again leaves at once."


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO_ROOT), **changes}


def verb(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "pref_dist", *arguments]


DRAWING = """
import logging, sys, warnings
from pref_dist.cli.terminal import Terminal
with Terminal() as terminal:
    print("before")
    for done in range(1, 6):
        terminal.show_step({"step": done, "num_steps": 5, "loss": 1.0, "rows": 8, "tokens": 800, "seconds": 0.1,
                            "grad_norm": 1.0, "learning_rate": 1e-5})
        if done == 3:
            print("in the middle")
            warnings.warn("something matters")
            logging.warning("a library says")
    terminal.show_batches(1, 4)
    raise SystemExit("why it ended")
"""


def test_lines_that_are_written_meanwhile_stand_whole_above_the_bar_which_is_gone_at_the_end(tmp_path):
    with TerminalSession([sys.executable, "-c", DRAWING], environment(), tmp_path, columns=100) as session:
        assert session.end() == 1
    screen = [line for line in session.screen if line]
    assert screen[0] == "before"
    assert screen[1] == "in the middle"
    assert "UserWarning: something matters" in screen[2]
    assert screen[-2:] == ["WARNING:root:a library says", "why it ended"]
    assert re.search(r"5/5 ━+ loss 1\.0000 80\.0 rows/s 8,000 tokens/s 0:00:00 left", ESCAPE.sub("", session.raw))
    assert "evaluating" in session.raw
    assert COLOUR.search(session.raw)


def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_an_evaluation_is(capsys, monkeypatch):
    monkeypatch.setattr("pref_dist.cli.terminal.SECONDS_BETWEEN_LINES", 0.05)
    terminal = Terminal()
    for done in range(5):
        terminal.show_batches(done, 4)
        time.sleep(0.06 if done else 0.0)
    assert re.findall(r"^evaluating (\d/4) batches .* left$", capsys.readouterr().err, re.MULTILINE) == ["2/4", "3/4"]


@pytest.mark.parametrize(("changes", "has_bar"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)])
def test_colours_and_the_bar_are_left_out_where_that_is_asked_for(tmp_path, changes, has_bar):
    with TerminalSession([sys.executable, "-c", DRAWING], environment(**changes), tmp_path, columns=40) as session:
        session.end()
    assert not COLOUR.search(session.raw)
    assert ("\r5/5 " in session.raw) is has_bar
    assert ("step      1  loss 1.0000" in session.raw) is not has_bar
    assert not [line for line in session.screen if len(line) > 40 and "loss" in line and has_bar]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, sample_dir, tiny_model):
    """A training in a terminal, its token cache built anew: the session after its end, and the run folder."""
    from tests.tiny_runs import TinyRuns

    folder = tmp_path_factory.mktemp("terminal")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, folder / "cache")
    run_yaml, run_dir = runs.write(evaluate={"every_steps": 10})
    with TerminalSession(verb("train", run_yaml), environment(), folder) as session:
        assert session.end() == 0, session.raw
    return session, run_yaml, run_dir


def test_a_training_shows_one_bar_with_speed_losses_and_the_time_that_is_left(seen):
    session, _, _ = seen
    drawn = ESCAPE.sub("", session.raw)
    assert "tokenising train.csv" in drawn
    figures = r"loss \d\.\d{4} valid \d\.\d{4} [\d,.]+ rows/s [\d,]+ tokens/s \d:\d\d:\d\d left"
    assert re.search(rf"20/20 ━+ {figures}", drawn)
    lines = [line for line in session.screen if line]
    assert not [line for line in lines if not line.startswith(OUR_LINES)]
    assert not [line for line in lines if "━" in line]
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == ["step 10", "step 20"]


def test_the_start_says_what_will_happen_in_few_lines(seen):
    lines = [line.split()[0] for line in seen[0].screen if line]
    assert lines[: lines.index("step")] == [
        "cache", "rows", "cut", "steps", "batches", "model", "ranks", "run", "memory"
    ]  # fmt: skip
    assert re.search(r"memory     about \S+ .B a rank at the peak, \S+ .B of it .*; \S+ .B are left then", seen[0].raw)


def test_predicting_has_its_bar_and_json_alone_goes_to_standard_output(seen, sample_dir, tmp_path):
    _, _, run_dir = seen
    command = verb("predict", run_dir, "--data", sample_dir / "test.csv", "--out", tmp_path / "out.csv", "--json",
                   "--set", "evaluate.token_budget=200", "--set", "data.cache_dir=" + str(tmp_path))  # fmt: skip
    with TerminalSession(command, environment(), tmp_path, output=tmp_path / "result.json") as session:
        assert session.end() == 0, session.raw
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["num_rows"] == 60
    assert re.search(r"evaluating ━+ \d+/\d+ batches -?:?\d?[\d:-]+ left", ESCAPE.sub("", session.raw))
    assert not [line for line in session.screen if line and not line.startswith("cache ")]


@pytest.fixture
def slow_run(write_run) -> tuple[Path, Path]:
    """A run whose steps take some seconds each, so that a key is pressed in the middle of one."""
    return write_run("slow", train={"rows_per_step": 250, "token_budget": 96, "epochs": 20})


@pytest.mark.parametrize("start", ["python", "single.sh"])
def test_ctrl_c_once_says_so_saves_and_leaves_and_twice_leaves_at_once(slow_run, tmp_path, start):
    run_yaml, run_dir = slow_run
    command = (
        verb("train", run_yaml) if start == "python" else ["bash", REPO_ROOT / "launch/single.sh", "train", run_yaml]
    )
    env = environment() if start == "python" else clean_env()
    for presses, code in ((1, 0 if start == "python" else 75), (2, 130)):
        with TerminalSession(command, env, tmp_path) as session:
            session.wait_for("/20 ")  # a step is done
            session.press(CONTROL_C)
            session.wait_for(STOPPED_TEXT)
            if presses == 2:
                session.press(CONTROL_C)
            assert session.end(60) == code, session.raw
        lines = [line for line in session.screen if line]
        assert STOPPED_TEXT in lines, session.raw
        if presses == 1:
            assert [line for line in lines if line.startswith("stopped at step 2 (Ctrl-C)")], session.raw
            assert json.loads((run_dir / "state.json").read_text(encoding="utf-8"))["state"] == "stopped"
        else:
            assert "Ctrl-C again: leaving at once. The same command goes on from the last checkpoint." in lines
            assert [line for line in lines if line.startswith("Going on from step 2")], "what the first one saved"
