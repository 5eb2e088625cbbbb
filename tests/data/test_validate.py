import pytest

from pref_dist.data.ingest import SourceRequest
from pref_dist.data.rows import Turn
from pref_dist.data.validate import CheckedRows, read_checked_rows
from pref_dist.errors import DataError

TIE = {"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}
BAD_ROWS = [
    ("bad_json", {"prompt": '["a"'}),
    ("bad_json", {"response_a": '{"a": 1}'}),
    ("bad_json", {"response_b": '["a", 3]'}),
    ("bad_json", {"response_b": ""}),
    ("bad_json", {"prompt": "[" * 100_000}),
    ("turn_count_differs", {"response_a": ["one", "two"]}),
    ("turn_count_differs", {"response_b": []}),
    ("no_text", {"prompt": [""], "response_a": [" "], "response_b": [None]}),
    ("winner_not_one_hot", {**TIE, "winner_model_a": 1}),
    ("winner_not_one_hot", {**TIE, "winner_tie": 0}),
    ("winner_not_one_hot", {**TIE, "winner_tie": ""}),
    ("winner_not_one_hot", {**TIE, "winner_tie": "yes"}),
    ("winner_not_one_hot", {**TIE, "winner_model_b": "nan"}),
    ("empty_id", {"id": " "}),
    ("duplicate_id", {"id": 1000}),
]
REPAIRABLE = ("bad_json", "turn_count_differs", "no_text")


@pytest.fixture
def write_bad(write_csv, record):
    """Five rows, of which the third has the changed cells."""
    return lambda changes: write_csv([record(number, **(changes if number == 2 else {})) for number in range(5)])


def all_rows(checked: CheckedRows) -> list[int]:
    return sorted([row.row for row in checked.rows] + [bad["row"] for bad in checked.set_aside])


def test_good_rows_come_back_whole(write_csv, record):
    turns = {"prompt": ["p1", "p2"], "response_a": ["a1", "a2"], "response_b": ["b1", "b2"]}
    checked = read_checked_rows(SourceRequest(write_csv([record(4, **turns)])), "set_aside")
    assert checked.rows[0].row == 1
    assert checked.rows[0].id == "1004"
    assert checked.rows[0].turns == (Turn("p1", "a1", "b1"), Turn("p2", "a2", "b2"))
    assert checked.rows[0].target == (0.0, 1.0, 0.0)
    assert checked.set_aside == []
    assert checked.findings == {}


@pytest.mark.parametrize(("kind", "changes"), BAD_ROWS)
def test_a_bad_row_is_set_aside_with_file_row_id_and_reason(write_bad, kind, changes):
    path = write_bad(changes)
    checked = read_checked_rows(SourceRequest(path), "set_aside")
    assert all_rows(checked) == [1, 2, 3, 4, 5]
    (bad,) = checked.set_aside
    assert (bad["file"], bad["row"], bad["id"], bad["kind"]) == (str(path), 3, str(changes.get("id", 1002)), kind)
    assert 0 < len(bad["detail"]) < 200
    assert checked.findings[kind] == 1


@pytest.mark.parametrize(("kind", "changes"), BAD_ROWS)
def test_fail_names_the_row_and_the_setting_that_goes_on(write_bad, kind, changes):
    with pytest.raises(DataError) as caught:
        read_checked_rows(SourceRequest(write_bad(changes)), "fail")
    message = str(caught.value)
    assert "1 of 5 rows" in message
    assert f"row 3, id {str(changes.get('id', 1002))!r}: {kind}" in message
    assert "data.bad_rows=set_aside" in message


@pytest.mark.parametrize(("kind", "changes"), BAD_ROWS)
def test_keep_repairs_what_can_be_repaired_and_sets_the_rest_aside(write_bad, kind, changes):
    checked = read_checked_rows(SourceRequest(write_bad(changes)), "keep")
    assert all_rows(checked) == [1, 2, 3, 4, 5]
    assert len(checked.set_aside) == (kind not in REPAIRABLE)
    assert checked.findings[kind] == 1


def test_keep_pads_missing_turns_and_reads_a_bad_cell_as_one_turn(write_csv, record):
    path = write_csv(
        [record(1, response_a=["a1", "a2"]), record(2, prompt='["open', response_a=["a"], response_b=["b"]), record(3)]
    )
    first, second, _ = read_checked_rows(SourceRequest(path), "keep").rows
    assert [turn.response_a for turn in first.turns] == ["a1", "a2"]
    assert first.turns[1].prompt == first.turns[1].response_b == ""
    assert second.turns == (Turn('["open', "a", "b"),)


def test_the_first_row_with_an_id_stays(write_csv, record):
    path = write_csv([record(1, id="x"), record(2), record(3, id="x"), record(4, id="x")])
    checked = read_checked_rows(SourceRequest(path), "set_aside")
    assert [row.row for row in checked.rows] == [1, 2]
    assert [bad["detail"] for bad in checked.set_aside] == ["row 1 has this id already"] * 2


def test_null_turns_are_empty_strings_and_counted(write_csv, record):
    path = write_csv([record(1, response_a=[None]), record(2)])
    checked = read_checked_rows(SourceRequest(path), "fail")
    assert checked.rows[0].turns[0].response_a == ""
    assert checked.findings == {"null_text": 1}


def test_lone_surrogates_are_replaced_and_counted_and_pairs_are_not(write_csv, record):
    path = write_csv([record(1, prompt='["a\\ud83db \\ud83d\\ude00"]'), record(2, prompt='["\\ud83d\\ude00"]')])
    checked = read_checked_rows(SourceRequest(path), "fail")
    assert checked.rows[0].turns[0].prompt == "a\ufffdb 😀"
    assert checked.findings == {"lone_surrogate": 1}


def test_plain_strings_are_one_turn(write_csv, record):
    path = write_csv([record(1, prompt="say [hi]", response_a="hi", response_b='"hi"')])
    assert read_checked_rows(SourceRequest(path), "fail").rows[0].turns == (Turn("say [hi]", "hi", '"hi"'),)


def test_an_unlabelled_file_has_rows_without_target(write_csv):
    path = write_csv(2, columns=("id", "prompt", "response_a", "response_b"))
    checked = read_checked_rows(SourceRequest(path), "fail")
    assert [row.target for row in checked.rows] == [None, None]
    assert not checked.is_labelled


def test_winners_may_be_written_as_floats(write_csv, record):
    path = write_csv([record(1, winner_model_a="0.0", winner_model_b="1.0", winner_tie="0")])
    assert read_checked_rows(SourceRequest(path), "fail").rows[0].target == (0.0, 1.0, 0.0)


def test_a_file_without_a_usable_row_is_an_error_that_names_the_first(write_csv, record):
    path = write_csv([record(1, id=""), record(2, prompt="[3]")])
    with pytest.raises(DataError, match=r"None of the 2 rows.*row 1, id '': empty_id"):
        read_checked_rows(SourceRequest(path), "set_aside")


def test_ragged_rows_are_set_aside(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("id,prompt,response_a,response_b\n1,p,a,b\n2,p,a\n3,p,a,b\n", encoding="utf-8")
    for policy in ("set_aside", "keep"):
        checked = read_checked_rows(SourceRequest(path), policy)
        assert [bad["kind"] for bad in checked.set_aside] == ["wrong_cell_count"]
        assert all_rows(checked) == [1, 2, 3]
