"""Every command that README.md and docs/ show is executed, here or by the test that the table names."""

import re
import time

import click
import pytest

from pref_dist.cli.program import program
from tests.documents.blocks import DOCUMENTS, ROOT, name_of, read_commands, read_inline, split_commands
from tests.documents.sandbox import Made, start_nursery, write_sandbox
from tests.documents.table import ELSEWHERE, EXCHANGES, NOT_RUN, exchange, find_reason, said

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

COMMANDS = {name_of(path): read_commands(path) for path in DOCUMENTS}
EXECUTED = [name for name, commands in COMMANDS.items() if any(find_reason(one.text) is None for one in commands)]
# The pages on which folds are trained first, and not in a folder that holds a run.
WITHOUT_RUN = {"README.md": ("run", "mine"), "docs/blending.md": ("run",)}


@pytest.fixture(scope="module")
def nursery():
    found = start_nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample_dir, tiny_model, cache_dir, nursery):
    """The one run that all documents begin with."""
    folder = tmp_path_factory.mktemp("first")
    sandbox = write_sandbox(folder, Made(sample_dir, tiny_model, folder / "none"), cache_dir, nursery)
    code, said = sandbox.execute("pref-dist train RUN.yaml")
    assert code == 0, said
    return Made(sample_dir, tiny_model, folder / "runs" / "run")


@pytest.mark.parametrize("document", EXECUTED)
def test_the_commands_of_a_document_do_what_it_says(document, tmp_path, made, cache_dir, nursery):
    sandbox = write_sandbox(tmp_path, made, cache_dir, nursery)
    for name in WITHOUT_RUN.get(document, ()):
        (tmp_path / "runs" / name).rename(tmp_path / name)
    for command in COMMANDS[document]:
        if find_reason(command.text) is not None:
            continue
        started, text = time.monotonic(), exchange(command.text, str(made.model))
        code, said = sandbox.execute(text)
        assert code == 0, f"{command.place}: exit code {code}\n{text}\n{said}"
        print(f"{time.monotonic() - started:5.1f} s  {command.place}  {text}")


@pytest.mark.parametrize("one", ELSEWHERE, ids=lambda one: one.pattern)
def test_what_another_test_executes_is_executed_by_one_that_exists(one):
    file, _, name = one.test.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or f"def {name}(" in text, one.test


@pytest.mark.parametrize("one", [*EXCHANGES, *ELSEWHERE, *NOT_RUN], ids=lambda one: one.pattern)
def test_every_line_of_the_table_is_about_a_command_that_is_there(one):
    shown = [said(command.text) for found in COMMANDS.values() for command in found]
    assert any(re.search(one.pattern, text) for text in shown), one.reason


INLINE = [command for path in DOCUMENTS for command in read_inline(path)]


@pytest.mark.parametrize("command", INLINE, ids=lambda one: f"{one.place} {one.text}")
def test_a_command_inside_the_text_names_what_is_there(command):
    """Scripts and tests exist, verbs and their options too."""
    for path in re.findall(r"(?:^bash|^pytest) ([\w./]+)", command.text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"^python -m (tests[\w.]+)", command.text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), path
    found = re.search(r"(?:^pref-dist|-m pref_dist) (.*)", command.text)
    if found:
        check_call(found[1].split())


def check_call(words: list[str]) -> None:
    """Fail unless the words are a verb of the program (with its own verbs) and options that it has."""
    verb: click.Command = program
    for word in words:
        if isinstance(verb, click.Group) and re.fullmatch(r"[a-z]+", word):
            assert word in verb.commands, f"there is no verb {word}"
            verb = verb.commands[word]
        elif word.strip("[]").startswith("--") and word.strip("[]") != "--help":
            options = [option for parameter in verb.params for option in parameter.opts]
            assert word.strip("[]").split("=")[0] in options, f"{verb.name} has no {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_stand_in_blocks_that_are_executed(path):
    """Not in those of another name, such as sh; console is for what was seen on a terminal."""
    fences = re.findall(r"^ *```(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "console", "python", "yaml", ""}
    assert set(fences[1::2]) <= {""}


def test_a_command_goes_on_after_a_backslash_and_in_a_here_document():
    text = "# said\na \\\n  b\ncat <<'END'\nx # y\nEND\n\nd\n"
    assert [number for number, _ in split_commands(text)] == [1, 3, 7]
