"""What all verbs have in common: help with examples, --json, a hint for what was mistyped, completion by bash."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pref_dist.cli.program import program
from pref_dist.errors import ConfigError
from tests.terminal_session import TerminalSession

HELP_CPU_SECONDS = 0.3
NOT_FOR_PROGRAMS = {"completion"}


def walk(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that a user can give, with the words that name it."""
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            if not part.hidden:
                yield from walk(part, (*names, name))
    if names:
        yield names, command


ALL = dict(walk(program))
LEAVES = {names: command for names, command in ALL.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_help_has_an_example_that_this_command_understands(names):
    text = CliRunner().invoke(program, [*names, "--help"]).output
    examples = text.partition("Examples:")[2].partition("\n\n")[0].splitlines()
    assert any(f"pref-dist {' '.join(names)}" in line for line in examples), text


@pytest.mark.parametrize("names", LEAVES, ids=" ".join)
def test_every_verb_whose_result_a_program_may_want_has_json(names):
    options = {option for parameter in LEAVES[names].params for option in parameter.opts}
    assert ("--json" in options) is not bool(NOT_FOR_PROGRAMS & set(names))


@pytest.mark.parametrize("verb", ["train", "doctor", "bench"])
def test_help_costs_little_time_of_a_processor(verb):
    process = subprocess.Popen([sys.executable, "-m", "pref_dist", verb, "--help"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert used.ru_utime + used.ru_stime < HELP_CPU_SECONDS


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["cache", "lisst"], "There is no verb 'lisst' of cache. Did you mean 'list'?"),
        (["slurm", "sumbit"], "There is no verb 'sumbit' of slurm. Did you mean 'submit'?"),
        (["bench", "xyz"], "Verbs: cache, evaluate, growth, plan, scaling, train."),
        (["train", "RUN.yaml", "--dry-rnu"], "--dry-run"),
        (["train", "RUN.yaml", "--set", "trian.epochs=3"], "did you mean 'train'?"),
        (["train", "RUN.yaml", "--set", "model.lora.rnk=3"], "did you mean 'rank'?"),
        (["train", "RUN.yaml", "--set", "epochs.x=3"], "did you mean 'train.epochs'?"),
        (["train", "RUN.yaml", "--folds", "--dry-run", "--debug"], "--dry-run trains nothing"),
    ],
)
def test_what_was_mistyped_gets_the_right_word_named(arguments, hint, tmp_path, monkeypatch):
    (tmp_path / "RUN.yaml").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, arguments)
    is_setting = isinstance(result.exception, ConfigError)
    assert is_setting or result.exit_code == 2
    assert hint in (str(result.exception) if is_setting else result.stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A run of three steps, and what `train --json` has printed of it."""
    from tests.tiny_runs import TinyRuns

    folder = tmp_path_factory.mktemp("json")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    run_yaml, run_dir = runs.write(train={"max_steps": 3}, parallel={"backend": "single"})
    return run_yaml, run_dir, read_object("train", run_yaml)


def read_object(*arguments: object) -> dict[str, object]:
    """What a verb prints with --json: one object on standard output, and nothing else there."""
    result = CliRunner().invoke(program, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_training_and_what_comes_after_it_print_one_json_object(trained, sample_dir, tmp_path):
    run_yaml, run_dir, told = trained
    assert (told["state"], told["step"]) == ("finished", 3)
    assert read_object("evaluate", run_dir, "--no-baselines")["num_rows"] == told["num_rows"]
    predicted = read_object("predict", run_dir, "--data", sample_dir / "test.csv", "--out", tmp_path / "out.csv")
    assert predicted["num_rows"] == 60
    assert Path(str(read_object("report", run_dir)["page"])).is_file()
    assert read_object("export", run_dir, tmp_path / "exported")["step"] == 3
    assert read_object("slurm", "status", run_dir)["progress"]
    assert read_object("slurm", "cancel", run_dir)["done"] == []
    assert read_object("train", run_yaml)["state"] == "finished"


def test_verbs_without_a_run_print_one_json_object(write_run, sample_dir, cache_dir, tmp_path):
    assert read_object("sample", tmp_path / "made", "--num-train", 30, "--num-test", 10)
    assert read_object("inspect", sample_dir / "train.csv")["page"] is None
    run_yaml, _ = write_run()
    assert read_object("prepare", run_yaml)["set_aside"] == 0
    for verb in ("list", "verify", "clean"):
        more = ["--dry-run", "--damaged"] if verb == "clean" else []
        assert read_object("cache", verb, "--cache-dir", cache_dir, *more)["cache_dir"] == str(cache_dir)
    assert read_object("bench", "plan", "--rows", 1000, "--repeats", 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell):
    script = CliRunner().invoke(program, ["completion", shell]).output
    assert f"_PREF_DIST_COMPLETE={shell}_complete" in script


@pytest.fixture
def bash(tmp_path):
    """An interactive bash in a terminal, with `pref-dist` on its path and its completion loaded."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "pref-dist"  # as the installed one
    command.write_text(f"#!{sys.executable}\nfrom pref_dist.cli import main\nmain()\n", encoding="utf-8")
    command.chmod(0o755)
    (tmp_path / "my_run.yaml").touch()
    (tmp_path / "my_runs").mkdir()
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PS1": "ready> ", "HISTFILE": ""}
    with TerminalSession(["bash", "--norc", "--noprofile", "-i"], env, tmp_path) as session:
        session.press('eval "$(pref-dist completion bash)"; echo load""ed\n')
        session.wait_for("loaded")
        yield session


def test_a_real_bash_completes_verbs_options_and_paths(bash):
    for typed, completed in (
        ("pref-dist tr\t", "pref-dist train "),
        ("--dry\t", "--dry-run "),
        ("my_run.\t", "my_run.yaml"),
    ):
        bash.press(typed)
        bash.wait_for(completed)
    bash.press("\x15pref-dist slurm sub\t")  # the line is deleted first
    bash.wait_for("pref-dist slurm submit ")
    bash.press("\x15pref-dist evaluate my_\t")
    bash.wait_for("pref-dist evaluate my_runs")
    bash.press("\x15exit\n")
    assert bash.end(20) == 0
