import json
import re
import subprocess
import sys
import time

import pandas as pd
import pytest

from pref_dist import __version__


def run(*arguments, timeout=120):
    command = [sys.executable, "-m", "pref_dist", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_the_version_is_printed():
    assert run("--version").stdout.strip() == f"pref-dist, version {__version__}"


@pytest.mark.parametrize(
    "verb",
    ["sample", "inspect", "prepare", "cache", "train", "evaluate", "predict", "report", "export", "bench", "doctor"],
)
def test_help_of_every_verb_is_quick_and_has_an_example(verb):
    assert f"pref-dist {verb}" in run(verb, "--help").stdout or "Example" in run(verb, "--help").stdout
    start = time.perf_counter()
    run(verb, "--help")
    assert time.perf_counter() - start < 1.5  # .1 s on an idle machine; see EXPERIMENTS.md


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pref_dist.cli.program import program\n"
        "try: program.main(['--help'], standalone_mode=False)\n"
        "finally: print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'torch', 'transformers', 'pandas', 'numpy', 'pydantic', 'sklearn', 'pyarrow'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert output.strip().endswith("[]")


def test_a_mistyped_verb_gets_the_right_one_named():
    result = run("trian")
    assert result.returncode == 2
    assert "Did you mean 'train'" in result.stderr


def test_a_wrong_setting_ends_with_its_own_code_and_no_traceback(write_run):
    result = run("train", write_run()[0], "--set", "train.epoch=2")
    assert result.returncode == 2
    assert "train.epoch: there is no such key; did you mean 'epochs'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_is_not_there_ends_in_seconds_with_the_remedy(write_run):
    start = time.perf_counter()
    result = run("train", write_run(model={"name": "nobody/no-such-model"})[0])
    assert result.returncode == 8
    assert "Point model.name at a folder" in result.stderr
    assert time.perf_counter() - start < 60


def test_rows_longer_than_the_model_are_refused_before_training(write_run):
    result = run("train", write_run(data={"max_tokens": 1024})[0])
    assert result.returncode == 2
    assert "data.max_tokens=1,024, but the model has 512 positions" in result.stderr


def test_evaluating_a_folder_without_a_run_is_refused(tmp_path):
    result = run("evaluate", tmp_path)
    assert result.returncode == 2
    assert "is no run folder" in result.stderr


@pytest.fixture(scope="module")
def broken(sample_dir, tmp_path_factory):
    """A train.csv with a row of bad JSON, one with two winners, and an id that stands twice."""
    rows = pd.read_csv(sample_dir / "train.csv", dtype=str)
    rows.loc[2, "response_a"] = '["cut'
    rows.loc[5, ["winner_model_a", "winner_model_b", "winner_tie"]] = ["1", "1", "0"]
    rows.loc[9, "id"] = rows.loc[8, "id"]
    path = tmp_path_factory.mktemp("broken") / "train.csv"
    rows.to_csv(path, index=False)
    return path


def test_bad_rows_are_set_aside_counted_and_named(broken, write_run):
    run_yaml, run_dir = write_run(data={"train": str(broken)})
    prepared = run("prepare", run_yaml, "--set", "data.max_tokens=48")
    result = run("train", run_yaml, "--set", "train.max_steps=1", "--set", "data.max_tokens=48")
    assert result.returncode == 0, result.stderr
    assert "3 set aside" in result.stdout
    cuts = re.findall(
        r"^cut +(\d+ of 297 rows at 48 tokens, \d+ % of all .*)$", result.stdout + prepared.stdout, re.MULTILINE
    )
    assert len(cuts) == 2, "both say what they cut"
    assert cuts[0] == cuts[1]
    records = [json.loads(line) for line in (run_dir / "rows_set_aside.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(record["row"], record["kind"]) for record in records] == [
        (3, "bad_json"),
        (6, "winner_not_one_hot"),
        (10, "duplicate_id"),
    ]
    assert all(record["file"] == str(broken) and record["id"] for record in records)


def test_bad_rows_stop_the_run_when_asked_to(broken, write_run):
    result = run("train", write_run(data={"train": str(broken), "bad_rows": "fail"})[0])
    assert result.returncode == 3
    for word in (str(broken), "row 3", "data.bad_rows", "set_aside"):
        assert word in result.stderr


def test_a_missing_column_and_an_empty_file_are_named(sample_dir, tmp_path, write_run):
    rows = pd.read_csv(sample_dir / "train.csv", dtype=str).rename(columns={"response_b": "respons_b"})
    rows.to_csv(tmp_path / "missing.csv", index=False)
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    for name, words in (("missing.csv", ("response_b", "respons_b")), ("empty.csv", ("empty",))):
        result = run("prepare", write_run(data={"train": str(tmp_path / name)})[0])
        assert result.returncode == 3
        assert str(tmp_path / name) in result.stderr
        assert all(word in result.stderr for word in words)
        assert "Traceback" not in result.stderr


def test_unlabelled_rows_cannot_be_trained_on(sample_dir, write_run):
    result = run("train", write_run(data={"train": str(sample_dir / "test.csv")})[0])
    assert result.returncode == 3
    assert "no labels" in result.stderr
