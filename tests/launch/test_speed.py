"""`launch/speed.sh` measures what is not there yet, by the program itself."""

import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"


def speed(*arguments):
    command = ["bash", str(LAUNCH / "speed.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_it_says_how_it_is_called():
    result = speed("only-data.csv")
    assert result.returncode == 2
    assert "usage: bash launch/speed.sh TRAIN_CSV DIR" in result.stderr


def test_what_is_there_is_not_measured_again(sample_dir, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    result = speed(sample_dir / "train.csv", tmp_path, "plan")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_a_name_that_is_none_is_said_before_anything_is_measured(sample_dir, tmp_path):
    result = speed(sample_dir / "train.csv", tmp_path, "plans", "evaluate")
    assert result.returncode == 2
    assert "no measurement 'plans'. There are: evaluate train train_bf16" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_fails_ends_it_and_is_tried_again(tmp_path):
    (tmp_path / "rows.csv").write_text("id,prompt\n1,text\n")
    result = speed(tmp_path / "rows.csv", tmp_path / "out", "cache")
    assert result.returncode != 0
    assert not (tmp_path / "out" / "cache.json").exists()
