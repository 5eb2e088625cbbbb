"""`import pref_dist`: what it offers, that the types are known, and what a wrong name says."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pref_dist
from pref_dist.config.load import load_config
from pref_dist.errors import ConfigError

ROOT = Path(__file__).parents[1]

# What a user's own program looks like to mypy --strict; the last line is wrong on purpose.
TYPED = """
from pathlib import Path
import pref_dist
config: pref_dist.RunConfig = pref_dist.load_config("run.yaml", {"train.epochs": 2})
pref_dist.write_sample("data", num_train=100)
result: pref_dist.TrainResult = pref_dist.train_run(config, pref_dist.TrainOptions(limit=3))
scores: dict[str, object] = pref_dist.evaluate_run(result.run_dir).metrics
pref_dist.predict_rows([result.run_dir], "test.csv", Path("submission.csv"))
page: Path = pref_dist.write_report("runs/demo")
prepared: pref_dist.Prepared = pref_dist.prepare_rows(config)
pref_dist.load("exported").predict([])
number: int = pref_dist.export_run("runs/demo", "exported")
"""


def test_every_function_is_documented_and_where_the_list_says():
    assert dir(pref_dist) == sorted([*pref_dist.__all__, "__version__"])
    for name in pref_dist.__all__:
        found = getattr(pref_dist, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            annotations = inspect.get_annotations(found)
            assert set(inspect.signature(found).parameters) | {"return"} == set(annotations), name


def test_a_verbs_bare_name_says_what_the_function_is_called():
    program = "import pref_dist; pref_dist.evaluate"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Did you mean evaluate_run?" in done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pref_dist.nothing  # noqa: B018


def test_mypy_knows_the_types_of_every_function(tmp_path):
    (tmp_path / "own.py").write_text(TYPED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), str(tmp_path / "own.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stdout + done.stderr
    assert 'own.py:12: error: Incompatible types in assignment (expression has type "ExportResult"' in lines[0]


def test_settings_may_be_given_as_values_which_are_no_yaml():
    path = "rows #1: {a}.csv"
    config = load_config(None, {"data.train": Path(path), "train.max_steps": 3, "model.lora": None})
    assert config.data.train == path
    assert config.train.max_steps == 3
    assert load_config(None, "train.epochs=2").train.epochs == 2
    with pytest.raises(ConfigError, match=r"section\.key"):
        load_config(None, {"epochs": 2})
