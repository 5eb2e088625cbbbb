"""Each public layout, from a file written by hand after its schema, and the same through every kind of file."""

import json

import pandas as pd
import pytest

from pref_dist.data.formats import is_swapped
from pref_dist.data.ingest import SourceRequest, open_source
from pref_dist.data.rows import Turn
from pref_dist.data.validate import RowChecker, read_checked_rows
from pref_dist.errors import DataError
from pref_dist.findings import Policies
from tests.data.format_cases import FILES, HERE, TIE, A, B, contents, read, write_json_lines


@pytest.mark.parametrize(("name", "format"), FILES.items())
def test_the_layout_is_recognised_and_no_row_is_lost(name, format):
    assert open_source(SourceRequest(HERE / name)).format == format
    checked = read(name)
    if name.endswith("jsonl"):
        assert len(checked.rows) == len((HERE / name).read_text(encoding="utf-8").splitlines())
    else:
        assert len(checked.rows) == len(pd.read_csv(HERE / name))
    assert checked.is_labelled
    assert checked.set_aside == []


def test_lmsys_has_turns_models_and_one_hot_winners():
    rows = read("lmsys.csv").rows
    assert [contents(row)[2:] for row in rows] == [
        (A, None, ("gpt-4-1106-preview", "gpt-4-0613")),
        (B, None, ("koala-13b", "gpt-4-0613")),
        (TIE, None, ("gpt-3.5-turbo-0613", "mistral-medium")),
    ]
    assert [turn.response_a for turn in rows[0].turns] == [
        "The question is complex.",
        "Ah, the age-old culinary conundrum!",
    ]
    assert rows[1].turns[0].response_b == ""
    assert rows[2].turns[0].response_a == "Function calling 😀 is "
    assert rows[1].cells[2] == "[null]"


def test_plain_strings_are_one_turn_with_their_line_breaks():
    rows = read("plain.csv").rows
    assert [row.turns for row in rows] == [
        (Turn("Which one is larger?", "The first.", "The second, I think."),),
        (Turn('Say "hi".', "hi", '[1] "hi"'),),
        (Turn("Two\nlines?", "Yes.", "Yes!"),),
    ]


@pytest.mark.parametrize("format", ["auto", "wsdm", "plain"])
def test_wsdm_names_the_winner_and_its_texts_are_plain(format):
    rows = read("wsdm.csv", format=format).rows
    assert [row.target for row in rows] == [A, B]
    assert rows[1].turns == (Turn('["is this json?"]', "No.", "It looks so."),)
    assert rows[0].models == ("o1-preview", "reka-core-20240904")


def test_an_arena_file_gives_turns_and_counts_both_bad_as_a_tie():
    rows = read("arena_100k.jsonl").rows
    assert [row.target for row in rows] == [B, TIE, TIE]
    assert rows[0].id == "58210e39b3fd4441a2bd4a518bb44c2d"
    assert rows[1].turns == (Turn("Be brief.\n\nHi", "Hello", "Hey"), Turn("Again", "Hello again", "Hey again"))


def test_contents_in_parts_are_joined_and_pictures_are_counted():
    checked = read("arena_140k.jsonl")
    assert [row.target for row in checked.rows] == [TIE, A]
    assert [row.turns[0].prompt for row in checked.rows] == ["What is on this picture?", "And this?"]
    assert checked.findings == {"non_text_content": 1}


@pytest.mark.parametrize("name", ["hh_rlhf.jsonl", "ultrafeedback.jsonl", "trl_pairs.jsonl"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pairs_are_shown_in_an_order_that_a_hash_of_the_id_draws(name, seed):
    rows = read(name, order_seed=seed).rows
    records = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    for row, record in zip(rows, records, strict=True):
        chosen = record["chosen"][-1]["content"] if isinstance(record["chosen"], list) else record["chosen"]
        assert row.target == (B if is_swapped(row.id, seed) else A)
        better = row.turns[-1].response_a if row.target == A else row.turns[-1].response_b
        assert chosen.endswith(better)


def test_the_order_of_pairs_is_fair_and_moves_no_row_when_others_come():
    swapped = [is_swapped(str(number), 42) for number in range(4000)]
    assert 0.46 < sum(swapped) / len(swapped) < 0.54
    few = read("ultrafeedback.jsonl").rows
    again = read("ultrafeedback.jsonl").rows
    assert [contents(row) for row in few] == [contents(row) for row in again]
    assert all(len(row.id) == 16 for row in few), "without an id the content is one"


def test_a_dialogue_in_one_text_and_answers_to_a_prompt_are_told_apart():
    hh = read("hh_rlhf.jsonl").rows
    assert [turn.prompt for turn in hh[0].turns] == [
        "What are some cuss words in english?",
        "What's your favorite one?",
    ]
    assert hh[0].turns[0].response_a == hh[0].turns[0].response_b == "Here's an incomplete list.\n\nAss, dick."
    trl = read("trl_pairs.jsonl").rows
    assert trl[0].turns[0].prompt == "What colour is the sky?"
    assert {*trl[0].turns[0][1:]} == {"Blue.", "Green."}
    assert [turn.prompt for turn in trl[1].turns] == ["Hi", "And?"]
    assert trl[1].turns[0][1:] == ("Hello", "Hello")


def test_equal_pairs_without_ids_stay_two_rows(tmp_path):
    line = (HERE / "hh_rlhf.jsonl").read_text(encoding="utf-8").splitlines()[0]
    path = tmp_path / "twice.jsonl"
    path.write_text(f"{line}\n{line}\n", encoding="utf-8")
    first, second = read(path).rows
    assert first.turns == second.turns
    assert second.id == f"{first.id}-2"


def test_soft_labels_beside_winners_are_for_training_and_instead_of_them_for_both():
    beside, alone = read("soft_beside.csv").rows, read("soft_alone.csv").rows
    assert [(row.target, row.soft_target) for row in beside] == [
        (A, pytest.approx((0.7, 0.2, 0.1))),
        (B, None),
        ((0.25, 0.25, 0.5), (0.25, 0.25, 0.5)),
    ]
    assert [row.training_target for row in beside[:2]] == [pytest.approx((0.7, 0.2, 0.1)), B]
    assert alone[0].target == alone[0].soft_target == (0.5, 0.25, 0.25)
    assert sum(alone[1].target) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"prob_tie": "0.9"}, "bad_soft_label"),
        ({"prob_tie": "-0.1", "prob_model_a": "0.9"}, "bad_soft_label"),
        ({"prob_tie": "x"}, "bad_soft_label"),
        ({"prob_tie": "nan"}, "bad_soft_label"),
        ({"prob_model_a": "", "prob_model_b": "", "prob_tie": ""}, "bad_soft_label"),
        ({"winner": "draw"}, "unknown_winner"),
        ({"winner": ""}, "unknown_winner"),
    ],
)
def test_labels_that_mean_nothing_set_the_row_aside(tmp_path, changes, kind):
    columns = {"id": "1", "prompt": "p", "response_a": "a", "response_b": "b"}
    labels = {"winner": "tie"} if "winner" in changes else dict.fromkeys(("prob_model_a", "prob_model_b"), "0.25")
    good = columns | labels | ({} if "winner" in changes else {"prob_tie": "0.5"})
    path = tmp_path / "labels.csv"
    pd.DataFrame([good, good | {"id": "2"} | changes]).to_csv(path, index=False)
    checked = read_checked_rows(SourceRequest(path))
    assert [row.id for row in checked.rows] == ["1"]
    assert [(record["id"], record["kind"]) for record in checked.set_aside] == [("2", kind)]


def test_probabilities_in_winner_columns_are_told_where_they_belong(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n1,p,a,b,1,0,0\n2,p,a,b,0.2,0.3,0.5\n"
    )
    (record,) = read_checked_rows(SourceRequest(path)).set_aside
    assert "prob_model_a" in record["detail"]


def test_labels_can_be_passed_over(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n1,p,a,b,0,0,0\n")
    source = open_source(SourceRequest(path, with_labels=False))
    assert not source.is_labelled
    assert [row.target for row in RowChecker(source, Policies()).iterate_rows()] == [None]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ([{"role": "user", "content": "Why?"}, {"role": "robot", "content": "x"}], "bad_conversation"),
        ([], "bad_conversation"),
        ("no json", "bad_conversation"),
        ([{"role": "user", "content": 3}], "bad_conversation"),
        (["a text"], "bad_conversation"),
        ([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "x"}], "prompts_differ"),
    ],
)
def test_a_conversation_that_cannot_be_read_sets_the_row_aside(tmp_path, cell, kind):
    good = json.loads((HERE / "arena_100k.jsonl").read_text(encoding="utf-8").splitlines()[2])
    path = tmp_path / "file.jsonl"
    bad = good | {"question_id": "bad", "conversation_b": cell}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    checked = read_checked_rows(SourceRequest(path))
    assert len(checked.rows) == 1
    assert [(record["id"], record["kind"]) for record in checked.set_aside] == [("bad", kind)]


def test_a_column_that_nobody_reads_is_named_with_the_one_it_may_have_meant(tmp_path):
    frame = pd.read_csv(HERE / "plain.csv").rename(columns={"winner_model_a": "winer_model_a"})
    path = tmp_path / "file.csv"
    frame.iloc[:, :5].assign(note="x", language="en").to_csv(path, index=False)
    source = open_source(SourceRequest(path))
    assert not source.is_labelled
    assert source.files[0].unused_columns == {"winer_model_a": "winner_model_a", "note": None, "language": None}


PAIR = {"id": "1", "prompt": "Why?", "chosen": "Because.", "rejected": "No."}


@pytest.mark.parametrize("label", [{"winner": "model_a"}, {"prob_model_a": 0.5, "prob_model_b": 0.5, "prob_tie": 0.0}])
def test_a_pair_that_has_a_label_besides_is_refused(tmp_path, label):
    with pytest.raises(DataError, match=f"which is a label, and also {next(iter(label))}"):
        read(write_json_lines(tmp_path / "pairs.jsonl", PAIR | label))


def test_the_models_of_a_pair_are_not_mistaken_for_those_of_a_and_b(tmp_path):
    path = write_json_lines(tmp_path / "pairs.jsonl", PAIR | {"model_a": "good", "model_b": "bad"})
    assert read(path).rows[0].models is None


def test_pairs_that_are_predicted_have_the_chosen_one_as_a_and_their_number_as_id(tmp_path):
    numbers = range(20)
    records = [{name: f"{PAIR[name]} {number}" for name in ("prompt", "chosen", "rejected")} for number in numbers]
    request = SourceRequest(write_json_lines(tmp_path / "pairs.jsonl", *records), with_labels=False)
    rows = read_checked_rows(request).rows
    assert [row.id for row in rows] == [str(number) for number in range(1, 21)]
    assert [row.turns[0].response_a for row in rows] == [f"Because. {number}" for number in numbers]
    assert {row.target for row in rows} == {None}


def test_a_pair_of_equal_responses_has_no_label_worth_learning(tmp_path):
    path = write_json_lines(tmp_path / "pairs.jsonl", PAIR, PAIR | {"id": "2", "rejected": PAIR["chosen"]})
    assert [(bad["id"], bad["kind"]) for bad in read_checked_rows(SourceRequest(path)).set_aside] == [
        ("2", "unknown_winner")
    ]


def test_a_file_that_fits_two_formats_must_name_one(tmp_path):
    both = PAIR | {"response_a": "a", "response_b": "b", "winner": "tie"}
    path = write_json_lines(tmp_path / "both.jsonl", both)
    with pytest.raises(DataError, match=r"several formats: lmsys or plain, pairs\. Name one in data\.format"):
        read(path)
    assert read(path, format="plain").rows[0].turns == (Turn("Why?", "a", "b"),)


@pytest.mark.parametrize(
    ("changes", "turn"),
    [
        ({"prompt": "Write a talk", "chosen": "Human: a", "rejected": "Assistant: b"}, ("Write a talk", "Human: a")),
        ({"chosen": '[{"a": 1}]', "rejected": "[{"}, ("Why?", '[{"a": 1}]')),
        ({"prompt": [{"role": "user", "content": "Hm?"}]}, ("Hm?", "Because.")),
        (
            {
                "chosen": [{"role": "system", "content": "be nice"}, {"role": "assistant", "content": "yes"}],
                "rejected": [{"role": "system", "content": "be nice"}, {"role": "assistant", "content": "no"}],
            },
            ("be nice\n\nWhy?", "yes"),
        ),
        ({"prompt": "\n\nHuman: So?\n\nAssistant:", "chosen": " this", "rejected": " that"}, ("So?", " this")),
        (
            {"prompt": [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "It"}]},
            ("Go", "It\n\nBecause."),
        ),
    ],
)  # fmt: skip
def test_the_prompt_of_a_pair_is_never_dropped(tmp_path, changes, turn):
    path = write_json_lines(tmp_path / "pairs.jsonl", PAIR | changes)
    checked = read_checked_rows(SourceRequest(path, with_labels=False), "fail")
    assert checked.rows[0].turns[0][:2] == turn


@pytest.mark.parametrize(
    ("cell", "found"), [(1.0, "1"), (12, "12"), ("x", "x"), (["x"], None), (True, None), ({}, None)]
)
def test_ids_are_texts_and_numbers(tmp_path, cell, found):
    row = {"prompt": "p", "response_a": "a", "response_b": "b"}
    path = write_json_lines(tmp_path / "ids.jsonl", row | {"id": "good"}, row | {"id": cell})
    checked = read_checked_rows(SourceRequest(path))
    assert [one.id for one in checked.rows[1:]] == ([found] if found else [])
    assert [bad["kind"] for bad in checked.set_aside] == ([] if found else ["empty_id"])


def test_what_makes_a_label_worthless_does_not_matter_where_none_is_wanted(tmp_path):
    path = write_json_lines(tmp_path / "pairs.jsonl", PAIR | {"rejected": PAIR["chosen"], "winner": "model_a"})
    checked = read_checked_rows(SourceRequest(path, with_labels=False), "fail")
    assert [row.id for row in checked.rows] == ["1"]


def test_a_dialogue_beside_an_empty_prompt_column_is_a_dialogue(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('id,prompt,chosen,rejected\n1,,"Human: Hi\n\nAssistant: Hello","Human: Hi\n\nAssistant: No"\n')
    (row,) = read_checked_rows(SourceRequest(path, with_labels=False), "fail").rows
    assert row.turns == (Turn("Hi", "Hello", "No"),)


def test_nan_in_a_column_of_numbers_is_an_empty_cell(tmp_path):
    frame = pd.read_csv(HERE / "soft_beside.csv")
    frame["id"] = [1.0, 2.0, None]
    frame.to_parquet(tmp_path / "soft.parquet")
    checked = read_checked_rows(SourceRequest(tmp_path / "soft.parquet"))
    assert [(row.id, row.target) for row in checked.rows] == [("1", A), ("2", B)]
    assert [bad["kind"] for bad in checked.set_aside] == ["empty_id"]
    assert read("soft_beside.csv").rows[2].target == (0.25, 0.25, 0.5)
    frame.assign(id=[1, 2, 3]).to_parquet(tmp_path / "soft.parquet")
    assert read(tmp_path / "soft.parquet").rows[2].target == (0.25, 0.25, 0.5)
