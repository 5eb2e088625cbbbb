import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.encode import RowEncoder
from pref_dist.data.rows import Row, Turn
from pref_dist.data.truncate import cut_fair, share_fairly
from pref_dist.data.truncation_audit import Extra, audit_truncation, describe_cuts, keep_right

LENGTHS = st.lists(st.integers(0, 60), min_size=3, max_size=3)
NAMES = ("prompt", "response_a", "response_b")
NOTHING_INSIDE = np.zeros(1000, dtype=bool)


def share(lengths: list[int], budget: int) -> list[int]:
    return share_fairly(np.array([lengths]), budget)[0].tolist()


@pytest.mark.parametrize(
    ("lengths", "budget", "shares"),
    [
        ([5, 5, 5], 15, [5, 5, 5]),
        ([9, 9, 9], 15, [5, 5, 5]),
        ([9, 9, 9], 16, [6, 5, 5]),
        ([9, 9, 9], 17, [5, 6, 6]),
        ([2, 9, 9], 12, [2, 5, 5]),
        ([2, 9, 9], 13, [2, 5, 5]),
        ([9, 2, 9], 13, [6, 2, 5]),
        ([2, 3, 90], 15, [2, 3, 10]),
        ([90, 0, 0], 15, [15, 0, 0]),
        ([0, 0, 0], 15, [0, 0, 0]),
    ],
)
def test_the_budget_is_shared_like_water(lengths, budget, shares):
    assert share(lengths, budget) == shares


@given(LENGTHS, st.integers(3, 100))
def test_shares_fill_the_budget_and_cut_segments_are_level(lengths, budget):
    shares = share(lengths, budget)
    spare = min(budget, sum(lengths)) - sum(shares)
    cut = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    assert 0 <= spare <= 1
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    if cut:
        assert max(shares) - min(cut) <= 1


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=5), st.data())
def test_two_segments_fill_their_budgets_and_are_level(lengths, data):
    """Each sequence has a budget of its own: the headers of seed templates differ in length."""
    budgets = data.draw(st.lists(st.integers(2, 100), min_size=len(lengths), max_size=len(lengths)))
    shares = share_fairly(np.array(lengths), np.array(budgets))
    for (prompt, response), budget, (prompt_share, response_share) in zip(lengths, budgets, shares, strict=True):
        assert prompt_share + response_share == min(budget, prompt + response)
        if prompt_share < prompt and response_share < response:
            assert 0 <= prompt_share - response_share <= 1


@given(LENGTHS, st.integers(3, 100))
def test_swapping_a_and_b_swaps_their_shares(lengths, budget):
    prompt, response_a, response_b = share(lengths, budget)
    assert share([lengths[0], lengths[2], lengths[1]], budget) == [prompt, response_b, response_a]


@given(st.lists(LENGTHS, min_size=1, max_size=8), st.integers(12, 100), st.integers(0, 5))
def test_what_is_kept_fits_and_keeps_head_and_tail(lengths, budget, num_marker):
    lengths = np.array(lengths)
    starts = np.cumsum(lengths).reshape(lengths.shape) - lengths
    ids = np.zeros(lengths.sum(), dtype=np.int32)
    cuts = cut_fair(ids, starts, lengths, budget, num_marker, NOTHING_INSIDE)
    assert ((cuts.head + cuts.tail + num_marker * cuts.has_marker).sum(axis=1) <= budget).all()
    assert ((cuts.head > 0) == (lengths > 0)).all()
    assert ((cuts.tail > 0) == cuts.has_marker).all()
    assert (np.abs(cuts.head - cuts.tail)[cuts.has_marker] <= 1).all()
    assert (cuts.head == lengths)[lengths.sum(axis=1) <= budget].all()


@given(st.lists(st.booleans(), min_size=20, max_size=60), st.integers(12, 40))
def test_no_cut_is_made_before_a_token_that_begins_inside_a_character(inside, budget):
    # Token 1 begins inside a character, token 0 does not; the first token of a text never does.
    ids = np.array([0, *inside[1:]] * 3, dtype=np.int32)
    num = len(inside)
    lengths, starts = np.full((1, 3), num), np.array([[0, num, 2 * num]])
    _, head, tail, has_marker = cut_fair(ids, starts, lengths, budget, 1, np.array([False, True]))
    for segment in range(3):
        tail_start = num - tail[0, segment]
        assert head[0, segment] == num or ids[head[0, segment]] == 0
        assert not has_marker[0, segment] or tail_start == num or ids[tail_start] == 0
    assert (head + tail + has_marker).sum() <= budget


def test_the_audit_counts_what_an_independent_count_gives():
    full = np.array([[10, 20, 30], [5, 5, 5], [50, 40, 3], [50, 45, 0]], dtype=np.int32)
    kept = np.array([[10, 20, 25], [5, 5, 5], [30, 30, 3], [40, 40, 0]], dtype=np.int32)
    audit = audit_truncation(full, kept, Extra(NAMES, before=(3, 6, 9), total=10), max_tokens=100)
    assert audit["num_rows"] == 4
    assert audit["rows_cut"] == 3
    assert audit["share_of_rows_cut_by_segment"] == {"prompt": 0.5, "response_a": 0.5, "response_b": 0.25}
    assert audit["tokens_lost"] == 5 + 30 + 15
    assert audit["tokens_lost_by_segment"] == {"prompt": 30, "response_a": 15, "response_b": 5}
    assert audit["rows_without_response_b"] == 0
    # 9 + 50 + 40 = 99 tokens stand before the third row's B, and the last of 100 is the special one.
    assert audit["rows_without_response_b_under_right_truncation"] == 1
    # The fourth row's A begins at 6 + 50 tokens and keeps some; it has no B that could be lost.
    assert audit["rows_without_a_response"] == 0
    assert audit["rows_without_a_response_under_right_truncation"] == 1
    assert audit["longest_row"] == 105
    assert audit["max_tokens_for_99_percent"] == 105
    total = int(full.sum())
    assert describe_cuts({"train": audit}) == (
        f"3 of 4 rows at 100 tokens, {5000 / total:.0f} % of all their tokens; 105 would leave 95 % of the rows whole"
    )
    assert describe_cuts({"train 1: a": audit, "train 2: b": audit}).startswith("6 of 8 rows")


def test_the_advised_max_tokens_keep_the_share_that_they_say():
    full = np.random.default_rng(0).integers(0, 400, (1000, 3)).astype(np.int32)
    audit = audit_truncation(full, full, Extra(NAMES, (2, 4, 5), 10), max_tokens=2000)
    totals = full.sum(axis=1) + 10
    for percent in (95, 99):
        advised = audit[f"max_tokens_for_{percent}_percent"]
        assert (totals <= advised).mean() >= percent / 100 > (totals <= advised - 1).mean()


def test_of_two_sequences_the_longer_one_decides_and_each_is_cut_on_its_own():
    names = ("prompt_a", "response_a", "prompt_b", "response_b")
    extra = Extra(names, before=(2, 5, 2, 5), total=6, num_sequences=2)
    full = np.array([[10, 20, 10, 90], [60, 60, 60, 2], [97, 10, 97, 0]], dtype=np.int32)
    kept = np.array([[10, 20, 10, 84], [47, 47, 60, 2], [84, 10, 94, 0]], dtype=np.int32)
    audit = audit_truncation(full, kept, extra, max_tokens=100)
    assert audit["rows_cut"] == 3
    assert audit["tokens_lost_by_segment"] == {"prompt_a": 26, "response_a": 13, "prompt_b": 3, "response_b": 6}
    assert audit["rows_without_a_response"] == 0
    # Of the third row's A nothing would be left after 97 + 5 tokens; it has no B.
    assert audit["rows_without_response_b_under_right_truncation"] == 0
    assert audit["rows_without_a_response_under_right_truncation"] == 1
    assert audit["longest_row"] == 126
    assert audit["max_tokens_for_95_percent"] == 126


def test_an_audit_of_no_rows_counts_nothing():
    empty = np.zeros((0, 3), dtype=np.int32)
    audit = audit_truncation(empty, empty, Extra(NAMES, (3, 6, 9), 10), max_tokens=100)
    assert audit["rows_cut"] == audit["longest_row"] == 0
    assert describe_cuts({"train": audit}) == ""


@pytest.mark.parametrize("template", ["joint", "seed_joint", "seed_siamese"])
def test_the_audit_foretells_what_right_truncation_keeps(wordpiece, template):
    texts = texts_of_many_lengths()
    rows = [Row(1, "1", (Turn(*cells),), None, cells=cells) for cells in zip(texts[5:], texts[3:], texts, strict=False)]
    encoder = RowEncoder(wordpiece, 60, template, "right")
    encoded = encoder.encode(rows)
    foretold = keep_right(encoded.full_lengths, encoder.extra, 60)
    assert foretold.tolist() == encoded.kept_lengths.tolist()
    audit = audit_truncation(encoded.full_lengths, encoded.kept_lengths, encoder.extra, 60)
    assert audit["rows_without_a_response"] == audit["rows_without_a_response_under_right_truncation"] > 0


def texts_of_many_lengths() -> list[str]:
    return [word * count for count in (1, 3, 8, 20, 60) for word in ("fox ", "dog ", "quick ")]
