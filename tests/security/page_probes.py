"""Texts of strangers are shown, on pages and on terminals, and never obeyed."""

import json
from pathlib import Path

import click
from click.testing import CliRunner

import pref_dist
from pref_dist.cli.options import show_set_aside
from pref_dist.cli.program import program, say_error
from pref_dist.config.load import load_config
from pref_dist.runtime.log import Speaker
from tests.report.full_run import write_full_run, write_lines
from tests.security.place import SCRIPT, Place


def assert_harmless(page: str, least: int) -> None:
    assert "<script" not in page.lower()
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(") >= least, "it is not shown at all"


def write_evil_rows(place: Place, name: str = "rows.jsonl") -> Path:
    texts = {
        "prompt": [SCRIPT],
        "response_a": [SCRIPT],
        "response_b": ["b"],
        "model_a": SCRIPT,
        "model_b": SCRIPT + "2",
    }
    rows = [{"id": f"{SCRIPT}{n}", **texts, "winner": "model_a", SCRIPT: SCRIPT} for n in range(6)]
    path = place.folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "prompt": []}]), encoding="utf-8")
    return path


def scripts_in_the_rows_of_an_inspection(place: Place) -> None:
    page = pref_dist.write_inspection(pref_dist.inspect_data(write_evil_rows(place)), place.folder)
    assert_harmless(page.read_text(encoding="utf-8"), least=6)


def a_script_in_the_name_of_an_inspected_file(place: Place) -> None:
    """A file's name may hold all but a slash."""
    path = write_evil_rows(place, "<script>alert(1)<img src=x>.jsonl")
    page = pref_dist.write_inspection(pref_dist.inspect_data(path), place.folder)
    assert_harmless(page.read_text(encoding="utf-8"), least=6)


def scripts_in_a_run_of_a_report(place: Place) -> None:
    run = write_full_run(place.folder / "run")
    config = load_config(run / "config.yaml").model_dump()
    config["data"]["train"] = config["model"]["name"] = SCRIPT
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    (run / "state.json").write_text(json.dumps({"state": "stopped", "step": 2, "reason": SCRIPT}))
    write_lines(run / "rows_set_aside.jsonl",
                [{"file": SCRIPT, "row": 4, "id": SCRIPT, "kind": "bad_json", "detail": SCRIPT}])  # fmt: skip
    worst = json.loads((run / "worst_rows.json").read_text())
    (run / "worst_rows.json").write_text(
        json.dumps([{**row, "row_id": SCRIPT, "models": [SCRIPT] * 2} for row in worst])
    )
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["references"] = {SCRIPT: {"log_loss": 0.6, "accuracy": 0.7}}
    metrics["gate"]["sentence"] = SCRIPT
    metrics["slices"] = [{**found, "slice": SCRIPT} for found in metrics["slices"]]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert_harmless(pref_dist.write_report(run).read_text(encoding="utf-8"), least=10)


def scripts_in_the_name_of_a_run(place: Place) -> None:
    """It stands in the title and in the pictures of a comparison."""
    runs = [write_full_run(place.folder / f"<script>alert({n})<img src=x>", noise=n) for n in (1, 2)]
    assert_harmless(pref_dist.write_report(runs[0]).read_text(encoding="utf-8"), least=2)
    page = pref_dist.write_comparison(runs, place.folder / "compared")
    assert_harmless(page.read_text(encoding="utf-8"), least=4)


def control_characters_in_what_is_printed(place: Place) -> None:
    """A row's id may tell a terminal to rename its window, hide what follows, or type."""
    evil = "\x1b]0;owned\x07\x1b[8m\x9b2J\r"

    @click.command()
    def show() -> None:
        show_set_aside([{"file": evil, "row": 1, "id": evil, "kind": "bad_json", "detail": evil}])
        say_error(f"DataError: id {evil}")

    result = CliRunner().invoke(show, color=True)
    assert not set("\x1b\x07\x9b\r") & set(result.output + result.stderr)
    with open(place.folder / "said", "w", encoding="utf-8") as stream:
        Speaker(True, stream).say(f"id {evil}\nsecond line")
    said = (place.folder / "said").read_text(encoding="utf-8")
    assert not set("\x1b\x07\x9b") & set(said)
    assert said.endswith("\nsecond line\n")


def control_characters_in_an_inspection_on_a_terminal(place: Place) -> None:
    result = CliRunner().invoke(
        program, ["inspect", str(write_evil_rows(place)), "--out", str(place.folder)], color=True
    )
    assert result.exit_code == 0, result.output
    assert "\x1b]" not in result.output
    assert "\x07" not in result.output
