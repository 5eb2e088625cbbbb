"""What the inspection says of a file is what pandas counts in it; and it is one page that needs nothing but itself."""

import html
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pref_dist.cli.inspect import inspect
from pref_dist.cli.program import program
from pref_dist.data.encode import load_tokenizer
from pref_dist.errors import DataError, ModelError
from pref_dist.inspection import inspect_data, write_page
from pref_dist.inspection.describe import Inspection
from pref_dist.inspection.notes import list_notes
from pref_dist.inspection.table import name_difference
from tests.page_checks import check_points_nowhere

WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
EVIL = "<script>alert('x')</script>\"><img src=http://evil.example/x>{{ 7 * 7 }}\x1b[2J"


def build_row(number: int, winner: str | None = "A", **changes: object) -> dict[str, object]:
    """One row; text cells are lists of turns."""
    cells: dict[str, object] = {
        "id": number, "model_a": "first", "model_b": "second",
        "prompt": [f"Question {number}?"], "response_a": ["yes"], "response_b": [f"no, not {number}"],
    }  # fmt: skip
    if winner is not None:
        cells |= {name: int(winner == label) for name, label in zip(WINNERS, ("A", "B", "tie"), strict=True)}
    cells |= changes
    return {name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in cells.items()}


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    def write_rows(rows: Sequence[Mapping[str, object]], name: str = "rows.csv") -> Path:
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write_rows


@pytest.fixture
def varied() -> list[dict[str, object]]:
    """200 rows of three models with one to three turns of any length."""
    draw = np.random.default_rng(3)
    rows = []
    for number in range(200):
        turns = int(draw.integers(1, 4))
        texts = {
            name: ["x" * int(draw.integers(0, 300)) for _ in range(turns)] for name in ("response_a", "response_b")
        }
        models = draw.choice(["tiny", "middle", "large"], 2, replace=False).tolist()
        prompt = [f"Question {draw.integers(0, 60)}", *["and then?"] * (turns - 1)]
        names = {"model_a": models[0], "model_b": models[1]}
        rows.append(build_row(number, str(draw.choice(["A", "B", "tie"])), prompt=prompt, **texts, **names))
    return rows


def read_page(inspection: Inspection, folder: Path) -> str:
    return write_page(inspection, folder / "page.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"<style.*?</style>|</?(data|code)\b[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_lengths_turns_labels_and_bias_are_those_of_pandas(write, varied):
    path = write(varied)
    rows = pd.read_csv(path)
    columns = ("prompt", "response_a", "response_b")
    turns = {name: rows[name].map(json.loads) for name in columns}
    lengths = {name: column.map(lambda texts: sum(map(len, texts))) for name, column in turns.items()}
    found = inspect_data(path)
    for name in columns:
        assert found.characters.lengths[name].mean == pytest.approx(lengths[name].mean())
        assert found.characters.lengths[name].longest == lengths[name].max()
        assert found.missing_turns[name] == turns[name].map(lambda texts: texts.count("")).sum()
    assert found.turns == turns["prompt"].map(len).value_counts().to_dict()
    assert {name: share.count for name, share in found.labels.classes.items()} == dict(
        zip(("A", "B", "tie"), rows[list(WINNERS)].sum(), strict=True)
    )
    difference = lengths["response_a"] - lengths["response_b"]
    wins = rows.winner_model_a[difference > 0].sum() + rows.winner_model_b[difference < 0].sum()
    assert found.labels.longer.wins == wins
    assert {model.name: model.num_rows for model in found.labels.models} == (
        pd.concat([rows.model_a, rows.model_b]).value_counts().to_dict()
    )


def test_tokens_are_those_of_the_tokenizer(write, varied, tiny_model):
    from tokenizers import Tokenizer

    found = inspect_data(write(varied), tokenizer=str(tiny_model))
    backend = Tokenizer.from_str(load_tokenizer(tiny_model).json)
    prompts = ["\n\n".join(json.loads(str(row["prompt"]))) for row in varied]
    counts = [len(backend.encode(prompt, add_special_tokens=False).ids) for prompt in prompts]
    assert found.tokens.lengths["prompt"].mean == pytest.approx(np.mean(counts))
    assert found.fitting[8192].count == len(varied)


def test_missing_values_are_counted_in_every_column_of_every_row(write):
    rows = [
        build_row(1), build_row(2, model_a=None), build_row(3, response_a="  "),
        build_row(None), build_row(5, prompt=["", "a"], response_a=["", "b"], response_b=["c", None]),
    ]  # fmt: skip
    found = inspect_data(write(rows))
    assert found.data.missing == {
        "id": 1, "model_a": 1, "model_b": 0, "prompt": 0, "response_a": 1, "response_b": 0, **dict.fromkeys(WINNERS, 0),
    }  # fmt: skip
    assert found.missing_turns == {"prompt": 1, "response_a": 1, "response_b": 1}
    assert found.data.findings == {"bad_json": 1, "empty_id": 1, "null_text": 1, "empty_text": 2}
    assert [(record["row"], record["kind"]) for record in found.data.set_aside] == [(3, "bad_json"), (4, "empty_id")]
    assert found.num_usable == 3
    assert "3 turns of usable rows have no text." in [note.text for note in list_notes(found)]


def test_duplicates_of_each_kind_are_told_apart(write):
    yes, no = {"response_a": ["yes"], "response_b": ["no"]}, {"response_a": ["no"], "response_b": ["yes"]}
    rows = [
        build_row(1, "A", prompt=["same"], **yes), build_row(2, "A", prompt=["same"], **yes),
        build_row(3, "B", prompt=["same"], **no),
        build_row(4, "A", prompt=["torn"], **yes), build_row(5, "A", prompt=["torn"], **no),
        build_row(6, "tie", prompt=["both"], response_a=["equal"], response_b=["equal"]),
        build_row(7, "A", prompt=["SAME!"], response_a=["other"], response_b=["answers"]),
        build_row(8, "A", prompt=["alone"]),
    ]  # fmt: skip
    test = write([rows[4], build_row(99, None, prompt=["alone"], response_a=["new"]), build_row(98, None)], "test.csv")
    found = inspect_data(write(rows), test)
    assert found.repeats.exact_repeats == 1
    assert found.repeats.swapped_repeats == 1
    assert (found.repeats.contradicting_pairs, found.repeats.contradicting_rows) == (1, 2)
    assert found.repeats.identical_responses == 1
    assert found.repeats.distinct_prompts == 4
    assert (found.repeats.rows_sharing_prompts, found.repeats.most_rows_of_a_prompt) == (6, 4)
    assert (found.test.num_rows, found.test.rows_in_train, found.test.prompts_in_train) == (3, 1, 2)
    assert (
        "75.0 % of rows share their prompt with another: hold out whole prompts, not rows (the default split does)."
    ) in [note.text for note in list_notes(found)]
    notes = [note.text for note in list_notes(found) if note.weight == "bad"]
    assert notes == [
        "Test rows that stand here too: 1 of 3 (33.3 %).",
        "Same texts, other label: 2 rows of 1 pair.",
    ]


ODD_FILES: dict[str, list[dict[str, object]]] = {
    "one row": [build_row(1)],
    "one unlabelled row": [build_row(1, None)],
    "all ties": [build_row(number, "tie") for number in range(20)],
    "one class": [build_row(number, "B") for number in range(20)],
    "constant lengths": [build_row(number, "A", response_a=["abc"], response_b=["def"]) for number in range(10, 30)],
    "empty responses": [build_row(number, "tie", response_a=[""], response_b=[""]) for number in range(5)],
    "no models": [
        {name: cell for name, cell in build_row(number).items() if not name.startswith("model")} for number in range(5)
    ],
    "one model": [build_row(number, model_b="first") for number in range(5)],
    "very long names": [build_row(1, model_a="m" * 500, model_b="an even longer name " * 40)],
    "a hundred models": [
        build_row(number, model_a=f"model {number}", model_b=f"model {number + 1}") for number in range(99)
    ],
    "a hundred turns": [build_row(1, prompt=["p"] * 100, response_a=["a"] * 100, response_b=["b"] * 100)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_FILES)
def test_odd_files_have_a_table_a_page_and_numbers(kind, write, tmp_path):
    path = write(ODD_FILES[kind])
    result = CliRunner().invoke(inspect, [str(path), "--out", str(tmp_path)])
    assert result.exception is None
    assert result.output.splitlines()[-1] == f"written: {tmp_path / 'rows_inspection.html'}"
    found = CliRunner().invoke(inspect, [str(path), "--json"])
    assert json.loads(found.output)["num_rows"] == len(ODD_FILES[kind])
    assert "nan" not in text_of((tmp_path / "rows_inspection.html").read_text()).lower().split()


def test_an_unlabelled_file_says_that_nothing_is_said_about_labels(sample_dir, tmp_path):
    found = inspect_data(sample_dir / "test.csv")
    assert found.labels is None
    assert "This file has no labels, so classes, bias and models cannot be described." in text_of(
        read_page(found, tmp_path)
    )


def test_nothing_in_the_page_points_outside_it(write, varied, tmp_path):
    page = read_page(inspect_data(write(varied)), tmp_path)
    check_points_nowhere(page)


def test_every_reference_inside_the_page_finds_its_one_element(write, varied, tmp_path, tiny_model):
    page = read_page(inspect_data(write(varied), tokenizer=str(tiny_model)), tmp_path)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_text_of_the_data_is_shown_and_never_run(write, tmp_path):
    evil = {"prompt": [EVIL], "response_a": [EVIL], "response_b": [EVIL, EVIL], "model_a": EVIL, "model_b": EVIL + "2"}
    rows = [build_row(EVIL, **evil | {"response_b": [EVIL]}), build_row(2, **evil), {**build_row(3), EVIL: EVIL}]
    path = write(rows)
    page = read_page(inspect_data(path), tmp_path)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(") >= 7
    assert "49" not in text_of(page).split()
    output = CliRunner().invoke(inspect, [str(path), "--out", str(tmp_path)]).output
    assert "\x1b" not in output
    assert "<script>alert('x')</script>" in output


def test_the_page_shows_as_many_rows_as_asked_for_and_no_more_of_a_text_than_fits(write, tmp_path):
    path = write([build_row(number, response_a=["long " * 10_000]) for number in range(9)])
    page = read_page(inspect_data(path, num_preview_rows=2), tmp_path)
    assert page.count('<article class="row">') == 2
    assert "50,000 characters" in text_of(page)
    assert len(page) < 150_000
    assert read_page(inspect_data(path, num_preview_rows=0), tmp_path).count("<article") == 0


def test_a_long_conversation_is_shown_by_its_first_turns(write, tmp_path):
    path = write([build_row(1, prompt=["p"] * 9, response_a=["a"] * 9, response_b=["b"] * 9)])
    words = text_of(read_page(inspect_data(path), tmp_path))
    assert words.count("Prompt of turn") == 4
    assert "and 5 more turns" in words


def test_findings_are_named_with_their_first_row(write, tmp_path):
    rows = [build_row(1), build_row(2, prompt='["torn'), build_row(3, prompt="{}"), build_row(1)]
    found = inspect_data(write(rows))
    assert [(problem["kind"], problem["num_rows"]) for problem in found.as_json()["problems"]] == [
        ("bad_json", 2), ("duplicate_id", 1),
    ]  # fmt: skip
    page = text_of(read_page(found, tmp_path))
    assert "a text cell that is no list of texts bad_json 2 2 set_aside row 2, id 2" in page
    assert list_notes(found)[0].text == "Not usable, so set aside: 3 rows (75.0 %)."


def test_the_same_file_gives_the_same_page(write, varied, tmp_path):
    path = write(varied)
    assert read_page(inspect_data(path), tmp_path) == read_page(inspect_data(path), tmp_path)


def test_json_holds_what_the_page_shows_and_no_page_is_written_unasked(write, varied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(varied)
    found = json.loads(CliRunner().invoke(inspect, [str(path), "--json"]).output)
    assert found["page"] is None
    monkeypatch.setenv("COLUMNS", "120")
    output = CliRunner().invoke(inspect, [str(path), "--rows", "0"]).output
    assert output.splitlines()[-1] == f"written: {tmp_path / 'rows_inspection.html'}", "the whole path, unasked"
    assert "by which to choose data.max_tokens: add --tokenizer MODEL." in output
    for low, high, words in [(-81, -3, "B longer by 3 to 81"), (0, 0, "A and B equally long"), (4, 9, "A longer by 4")]:
        assert name_difference(low, high).startswith(words)
    assert name_difference(-1200, 7) == "B by up to 1,200 or A by up to 7 characters longer"
    assert re.search(r"B longer by \d+ to \d+ characters +\d", output)
    (tmp_path / "rows_inspection.html").unlink()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert found["labels"]["position"]["wins"] == inspect_data(path).labels.position.wins
    assert found["characters"]["lengths"]["prompt"]["quantiles"]
    written = json.loads(CliRunner().invoke(inspect, [str(path), "--json", "--out", "pages/x.html"]).output)
    assert Path(written["page"]).is_file()


def test_what_cannot_be_read_is_an_error_of_the_project(write, tmp_path):
    path = write([build_row(1)])
    with pytest.raises(DataError, match="no_such_file"):
        inspect_data(tmp_path / "no_such_file.csv")
    with pytest.raises(ModelError):
        inspect_data(path, tokenizer=str(tmp_path / "no_model"))
    with pytest.raises(DataError, match="format"):
        inspect_data(path, format="no_such_format")


def test_piped_output_has_no_codes_and_help_is_quick(write, varied, tmp_path):
    command = [sys.executable, "-m", "pref_dist", "inspect"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    arguments = [str(write(varied)), "--out", str(tmp_path / "page.html")]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:-1])) <= 100
    start = time.perf_counter()
    assert "Example" in subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60).stdout
    assert time.perf_counter() - start < 1.5
    assert "inspect" in program.commands
