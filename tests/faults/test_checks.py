"""The checker itself notices whatever is wrong with a finished run."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.faults.checks import list_differences, read_record
from tests.faults.injection import check_honest
from tests.faults.outcomes import Outcome, has_passed, render_closing
from tests.faults.scene import Run
from tests.faults.starts import Ending
from tests.faults.verdicts import SilentlyWrongError

LAST = 4


@pytest.fixture
def write_finished(tmp_path: Path):
    """Return a function that writes what a run of LAST steps leaves, and returns its folder."""

    def write(name: str) -> Path:
        run_dir = tmp_path / name
        checkpoint = run_dir / "checkpoints" / f"step_{LAST:06d}"
        checkpoint.mkdir(parents=True)
        save_file({"head.weight": np.arange(3.0, dtype=np.float32)}, checkpoint / "model-00000.safetensors")
        save_file({"exp_avg/head.weight": np.ones(3, np.float32)}, checkpoint / "optimizer-00000.safetensors")
        write_lines(run_dir, [line_of(step) for step in range(1, LAST + 1)] + [{"step": LAST, "log_loss": 1.0}])
        (run_dir / "state.json").write_text('{"state": "finished", "step": 4}')
        (run_dir / "metrics.json").write_text('{"step": 4, "log_loss": 1.0}')
        return run_dir

    return write


def line_of(step: int) -> dict[str, object]:
    return {"step": step, "epoch": 0, "loss": 1.0 / step, "learning_rate": 1e-5, "rows": 13, "tokens": 900 + step}


def read_lines(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def write_lines(run_dir: Path, lines: list[dict[str, object]]) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_line(run_dir: Path, place: int, **values: object) -> None:
    lines = read_lines(run_dir)
    lines[place] |= values
    write_lines(run_dir, lines)


def change_weight(run_dir: Path, by: float) -> None:
    path = run_dir / "checkpoints" / "step_000004" / "model-00000.safetensors"
    save_file({"head.weight": np.arange(3.0, dtype=np.float32) + np.float32([by, 0, 0])}, path)


def change_moment(run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "step_000004" / "optimizer-00000.safetensors"
    save_file({"exp_avg/head.weight": np.float32([1, 1, 1 + 1e-6])}, path)


WRONGS = {
    "a weight": (lambda run: change_weight(run, 1e-7), "weights are off"),
    "a weight that is NaN": (lambda run: change_weight(run, float("nan")), "weights are off"),
    "a moment": (change_moment, "moments are off"),
    "a step missing": (lambda run: write_lines(run, read_lines(run)[1:]), "missing [1]"),
    "a step twice": (lambda run: write_lines(run, [read_lines(run)[0], *read_lines(run)]), "twice [1]"),
    "a loss": (lambda run: change_line(run, 1, loss=0.5 + 1e-7), "step 2 has loss"),
    "a loss that is not finite": (lambda run: change_line(run, 1, loss=None), "step 2 has loss"),
    "other rows": (lambda run: change_line(run, 2, tokens=1), "step 3 has tokens=1"),
    "a skipped step": (lambda run: change_line(run, 3, skipped=True), "skipped are steps (4,)"),
    "an evaluation": (lambda run: change_line(run, 4, log_loss=1.0 + 1e-9), "the log loss after step 4"),
    "an evaluation missing": (lambda run: write_lines(run, read_lines(run)[:-1]), "evaluated after steps []"),
    "another best step": (lambda run: (run / "metrics.json").write_text('{"step": 3}'), "the best step is 3"),
    "the state": (lambda run: (run / "state.json").write_text('{"state": "stopped"}'), "state.json says stopped"),
    "half a checkpoint": (lambda run: (run / "checkpoints" / "step_000003.tmp").mkdir(), "left behind"),
}


def test_a_run_that_equals_its_reference_has_no_differences(write_finished):
    assert not list_differences(read_record(write_finished("one")), read_record(write_finished("other")), is_exact=True)


@pytest.mark.parametrize("wrong", WRONGS)
def test_whatever_is_wrong_is_found_and_named(write_finished, wrong):
    change, expected = WRONGS[wrong]
    run_dir = write_finished("changed")
    change(run_dir)
    differences = list_differences(read_record(run_dir), read_record(write_finished("reference")), is_exact=True)
    assert expected in "\n".join(differences)


@pytest.mark.parametrize(("by", "is_wrong"), [(9e-7, False), (2e-6, True), (float("nan"), True)])
def test_across_world_sizes_weights_may_be_off_by_a_millionth_and_no_more(write_finished, by, is_wrong):
    run_dir = write_finished("changed")
    change_weight(run_dir, by)
    found = list_differences(read_record(run_dir), read_record(write_finished("reference")), is_exact=False)
    assert bool(found) == is_wrong


@pytest.mark.parametrize("state", ["running", "failed"])
def test_exit_code_0_of_a_run_that_is_not_finished_is_a_silent_wrong_result(write_finished, state):
    run_dir = write_finished("unfinished")
    (run_dir / "state.json").write_text(json.dumps({"state": state}))
    with pytest.raises(SilentlyWrongError, match=state):
        check_honest(Ending([0, 0], ["", ""], False), Run(run_dir.with_suffix(".yaml"), run_dir))
    check_honest(Ending([0, 7], ["", ""], False), Run(run_dir.with_suffix(".yaml"), run_dir))


def test_what_was_not_survived_fails_the_whole_and_what_was_not_run_counts_for_nothing():
    outcomes = [Outcome("nan", 1, "survived", "", "", 1.0), Outcome("fp16_overflow", 1, "not run", "", "", 0.0)]
    assert has_passed(outcomes)
    assert render_closing(outcomes) == "faults: 1/1, silent wrong results: 0"
    outcomes.append(Outcome("nan", 2, "SILENTLY WRONG", "", "", 1.0))
    assert not has_passed(outcomes)
    assert render_closing(outcomes) == "faults: 1/2, silent wrong results: 1"
    assert not has_passed(outcomes[1:2]), "nothing was tried"
