"""Slices and verbosity: each row stands once in each way of slicing, and figures are those by hand."""

from itertools import pairwise

import numpy as np
import pytest

from pref_dist.data.rows import Row, Turn
from pref_dist.errors import DataError
from pref_dist.evaluate.analysis import TEXTS_AT_ONCE, read_texts
from pref_dist.evaluate.slices import RowFacts, join_facts, measure_rows, score_slices
from pref_dist.evaluate.verbosity import list_ranges, measure_verbosity
from pref_dist.metrics import probabilities, score_logits
from tests.simulated_rows import draw_rows


def build_row(*turns):
    return Row(1, "x", tuple(Turn(*turn) for turn in turns), None)


ROWS = [
    build_row(("why?", "because", "so"), ("and?", "no", "no")),
    build_row(("why?", "a" * 600, "")),
    build_row(("p" * 9000, "same", "same")),
    build_row(("1", "b", " \n"), ("2", "b", "b"), ("3", "b", "b"), ("4", "b", "b")),
]
IS_CUT = np.array([False, False, True, False])


def facts_of(generator, num_rows):
    return RowFacts(
        characters=generator.integers(0, 4000, (num_rows, 3)),
        num_turns=generator.integers(1, 6, num_rows),
        is_cut=generator.random(num_rows) < 0.2,
        has_empty_response=generator.random(num_rows) < 0.05,
        has_equal_responses=np.zeros(num_rows, np.bool_),
    )


def test_rows_are_measured_over_all_their_turns():
    facts = measure_rows(ROWS, IS_CUT)
    assert facts.characters.tolist() == [[8, 9, 4], [4, 600, 0], [9000, 4, 4], [4, 4, 5]]
    assert facts.num_turns.tolist() == [2, 1, 1, 4]
    assert facts.has_empty_response.tolist() == [False, True, False, True]
    assert facts.has_equal_responses.tolist() == [False, False, True, False]
    assert facts.differences.tolist() == [5, 600, 0, -1]


def test_rows_measured_in_pieces_are_the_same():
    whole, pieces = measure_rows(ROWS, IS_CUT), [slice(0, 1), slice(1, 1), slice(1, 4)]
    joined = join_facts([measure_rows(ROWS[piece], IS_CUT[piece]) for piece in pieces])
    for name, values in vars(whole).items():
        assert np.array_equal(getattr(joined, name), values)
        assert getattr(joined, name).dtype == values.dtype
    assert len(join_facts([])) == 0


def test_texts_are_read_as_they_come_and_the_worst_rows_are_kept_in_their_order():
    num_rows = TEXTS_AT_ONCE + 5
    is_cut = np.arange(num_rows) % 3 == 0
    worst = np.array([num_rows - 1, 3, TEXTS_AT_ONCE])
    facts, kept = read_texts((build_row(("p", "a" * number, "b")) for number in range(num_rows)), is_cut, worst)
    assert np.array_equal(facts.characters[:, 1], np.arange(num_rows))
    assert np.array_equal(facts.is_cut, is_cut)
    assert [len(row.turns[0].response_a) for row in kept] == worst.tolist()


def test_the_slices_of_four_rows_are_those_named_by_hand_and_no_empty_one():
    targets = np.eye(3)[[0, 2, 1, 0]]
    found = score_slices(measure_rows(ROWS, IS_CUT), np.zeros((4, 3)), targets, np.arange(4, dtype=np.uint64))
    assert [(one["by"], one["slice"], one["num_rows"]) for one in found] == [
        ("length in characters", "0 to 499", 2),
        ("length in characters", "500 to 999", 1),
        ("length in characters", "8,000 or more", 1),
        ("length difference in characters", "B longer by 1 to 199", 1),
        ("length difference in characters", "equally long", 1),
        ("length difference in characters", "A longer by 1 to 199", 1),
        ("length difference in characters", "A longer by 200 to 999", 1),
        ("turns", "1", 2),
        ("turns", "2", 1),
        ("turns", "3 or more", 1),
        ("truncation", "cut", 1),
        ("truncation", "whole", 3),
        ("real class", "tie", 1),
        ("real class", "no tie", 3),
        ("empty responses", "a response is empty", 2),
        ("empty responses", "none is empty", 2),
        ("identical responses", "A and B are identical", 1),
        ("identical responses", "they differ", 3),
    ]
    assert all(one["log_loss"] == pytest.approx(np.log(3)) for one in found)
    assert [one["interval"] is None for one in found] == [one["num_rows"] == 1 for one in found]


def test_each_way_of_slicing_parts_the_rows_and_its_losses_add_up():
    generator = np.random.default_rng(0)
    logits, targets, groups = draw_rows(generator, 1000)
    facts = facts_of(generator, 1000)
    found = score_slices(facts, logits, targets, groups)
    whole = score_logits(logits, targets)
    for by in {one["by"] for one in found}:
        slices = [one for one in found if one["by"] == by]
        assert sum(one["num_rows"] for one in slices) == 1000
        for name in ("log_loss", "accuracy"):
            assert sum(one[name] * one["num_rows"] for one in slices) / 1000 == pytest.approx(whole[name], abs=1e-12)
    cut = next(one for one in found if one["slice"] == "cut")
    assert cut["log_loss"] == score_logits(logits[facts.is_cut], targets[facts.is_cut])["log_loss"]
    assert cut["num_prompts"] == len(np.unique(groups[facts.is_cut])) < cut["num_rows"]
    assert cut["interval"][0] < cut["log_loss"] < cut["interval"][1]


def test_exchanging_a_and_b_mirrors_the_slices_by_length_difference_and_the_verbosity():
    generator = np.random.default_rng(1)
    logits, targets, groups = draw_rows(generator, 500)
    facts, swap = facts_of(generator, 500), [1, 0, 2]
    swapped = RowFacts(**{**vars(facts), "characters": facts.characters[:, [0, 2, 1]]})
    one = score_slices(facts, logits, targets, groups)
    other = score_slices(swapped, logits[:, swap], targets[:, swap], groups)
    by = "length difference in characters"
    sizes = [[part["num_rows"] for part in found if part["by"] == by] for found in (one, other)]
    assert sizes[0] == sizes[1][::-1]
    assert len(sizes[0]) >= 6
    rising = measure_verbosity(facts, probabilities(logits), targets)
    falling = measure_verbosity(swapped, probabilities(logits[:, swap]), targets[:, swap])[::-1]
    for here, there in zip(rising, falling, strict=True):
        assert here["num_rows"] == there["num_rows"]
        assert here["predicted"] == pytest.approx(1 - there["predicted"])
        assert here["real"] == pytest.approx(1 - there["real"])


def test_verbosity_is_the_mean_win_rate_by_how_much_longer_a_is():
    characters = np.array([[0, 10, 10], [0, 30, 10], [0, 250, 10], [0, 10, 9000]])
    flags = np.zeros(4, np.bool_)
    facts = RowFacts(characters, np.ones(4, np.int64), flags, flags, flags)
    chances = np.array([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.7, 0.2, 0.1], [0.1, 0.9, 0.0]])
    assert measure_verbosity(facts, chances, np.eye(3)[[0, 2, 0, 1]]) == [
        {"low": None, "high": -2000, "num_rows": 1, "predicted": pytest.approx(0.1), "real": 0.0},
        {"low": -49, "high": 49, "num_rows": 2, "predicted": pytest.approx(0.55), "real": 0.75},
        {"low": 200, "high": 499, "num_rows": 1, "predicted": pytest.approx(0.75), "real": 1.0},
    ]


def test_the_ranges_of_verbosity_hold_every_difference_once():
    ranges = list_ranges()
    assert ranges[0][0] == -np.inf
    assert ranges[-1][1] == np.inf
    assert all(high + 1 == low for (_, high), (low, _) in pairwise(ranges))


def test_what_does_not_fit_together_is_refused():
    facts, empty = measure_rows(ROWS, IS_CUT), join_facts([])
    groups = np.arange(5, dtype=np.uint64)
    with pytest.raises(DataError, match="Facts of 4 rows and logits of 5"):
        score_slices(facts, np.zeros((5, 3)), np.zeros((5, 3)), groups)
    with pytest.raises(DataError, match="no rows to score"):
        score_slices(empty, np.zeros((0, 3)), np.zeros((0, 3)), groups[:0])
    with pytest.raises(DataError, match="no rows to score"):
        measure_verbosity(empty, np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(DataError, match="predictions that are no finite numbers"):
        measure_verbosity(facts, np.full((4, 3), np.nan), np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"4 rows and whether each is cut, of shape \(3,\)"):
        measure_rows(ROWS, IS_CUT[:3])
