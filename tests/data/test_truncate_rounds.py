import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pref_dist.data.encode import EncodedRows, RowEncoder
from pref_dist.data.rows import Row, Turn
from pref_dist.data.truncate_rounds import SMALLEST_ROUND_TOKENS, plan_rounds, share_by_weight

NEEDS = st.lists(st.integers(0, 300), min_size=2, max_size=3)


@pytest.mark.parametrize(
    ("needs", "budget", "shares"),
    [
        ([90, 90, 90], 100, [20, 40, 40]),
        ([90, 90, 90], 103, [21, 41, 41]),
        ([10, 90, 90], 100, [10, 45, 45]),
        ([90, 10, 90], 100, [30, 10, 60]),
        ([10, 10, 90], 100, [10, 10, 80]),
        ([90, 0, 0], 50, [50, 0, 0]),
        ([90, 90], 90, [30, 60]),
        ([10, 90], 90, [10, 80]),
        ([90, 10], 90, [80, 10]),
    ],
)
def test_a_round_is_shared_20_40_40_and_what_one_does_not_need_goes_to_the_others(needs, budget, shares):
    assert share_by_weight(needs, budget) == shares


@given(NEEDS, st.integers(0, 900))
@settings(derandomize=True, max_examples=300)
def test_shares_fit_the_budget_and_leave_next_to_nothing_over(needs, budget):
    shares = share_by_weight(needs, budget)
    assert all(0 <= share <= need for share, need in zip(shares, needs, strict=True))
    assert 0 <= min(budget, sum(needs)) - sum(shares) <= 2
    prompt, *responses = needs
    assert share_by_weight([prompt, *reversed(responses)], budget) == [shares[0], *reversed(shares[1:])]


@pytest.mark.parametrize(
    ("budget", "plan"),
    [
        (299, ([0, 0, 0], [20, 40, 40], [20, 39, 39])),
        (280, ([0, 0, 0], [20, 40, 40], [16, 32, 32])),
        (279, ([20, 40, 40], [0, 0, 0], [0, 0, 0])),
        (200, ([20, 40, 40], [0, 0, 0], [0, 0, 0])),
        (199, ([20, 40, 40], [20, 40, 40], [20, 39, 39])),
        (100, ([40, 80, 80], [0, 0, 0], [0, 0, 0])),
        (50, ([40, 80, 80], [20, 40, 40], [10, 20, 20])),
    ],
)
def test_rounds_stay_from_the_end_and_the_one_that_does_not_fit_gets_the_rest(budget, plan):
    rounds = np.repeat([[20], [40], [40]], 3, axis=1)
    assert plan_rounds(rounds, budget) == plan


@given(st.integers(1, 6), st.data())
@settings(derandomize=True, max_examples=300)
def test_a_plan_fits_and_wastes_less_than_a_round_worth_reading(num_rounds, data):
    rounds = np.array(data.draw(st.lists(st.lists(st.integers(0, 90), min_size=num_rounds, max_size=num_rounds),
                                         min_size=3, max_size=3)))  # fmt: skip
    total = int(rounds.sum())
    if total < 20:
        return
    budget = data.draw(st.integers(10, total - 1))
    dropped, cut, shares = (np.array(part) for part in plan_rounds(rounds, budget))
    kept = total - int(dropped.sum() + cut.sum()) + int(shares.sum())
    assert budget - SMALLEST_ROUND_TOKENS < kept <= budget
    assert (dropped[:, None] == rounds.cumsum(axis=1) - rounds).all(axis=0).any() or dropped.sum() == total


def encode_joint(tokenizer, max_tokens: int, *turns: Turn) -> tuple[EncodedRows, str]:
    encoder = RowEncoder(tokenizer, max_tokens, "joint", "last_rounds")
    encoded = encoder.encode([Row(1, "1", turns, None)])
    return encoded, encoder.backend.decode(encoded.input_ids.tolist())


def test_the_first_rounds_go_and_the_last_ones_stay_whole(wordpiece):
    turns = [Turn(f"fox {n}", f"dog {n} " * 20, f"the dog {n} " * 20) for n in range(1, 6)]
    encoded, text = encode_joint(wordpiece, 300, *turns)
    assert "round 5 : fox 5" in text
    assert "round 4 : fox 4" in text
    assert "round 1 :" not in text
    assert text.count("dog 5") == 40
    assert encoded.lengths[0] <= 300


def test_a_last_round_that_is_alone_too_long_keeps_head_and_tail(wordpiece):
    turns = [Turn("fox", "dog", "dog"), Turn("lazy " * 200 + "fox", "quick " + "dog " * 300, "brown " * 300 + "fox")]
    encoded, text = encode_joint(wordpiece, 200, *turns)
    assert "round 1" not in text
    assert text.count("round 2 : ") == 3
    assert text.count("...") == 3
    prompt, response_a, response_b = encoded.kept_lengths[0].tolist()
    assert response_a == response_b
    assert 0.4 < prompt / response_a < 0.6


def test_a_row_that_would_lose_a_segment_is_cut_by_fair(byte_level):
    """A fifth of the room may be too little for a whole character where a third of it is enough."""
    row = Row(1, "1", (Turn("🤖🧪" * 50, "a" * 100, "b" * 100),), None)
    num_extra = RowEncoder(byte_level, 4000).extra.total
    is_by_fair = []
    for budget in range(12, 120, 6):
        by_rounds, by_fair = (
            RowEncoder(byte_level, num_extra + budget, "joint", policy).encode([row])
            for policy in ("last_rounds", "fair")
        )
        assert (by_rounds.kept_lengths > 0).all()
        is_by_fair.append(by_rounds.input_ids.tolist() == by_fair.input_ids.tolist())
    assert is_by_fair[0]
    assert not is_by_fair[-1]


def test_a_row_that_fits_is_as_by_fair(tokenizer):
    row = Row(1, "1", (Turn("fox", "dog", "cat"), Turn("fox", "", "cat")), None)
    results = [RowEncoder(tokenizer, 400, "joint", policy).encode([row]) for policy in ("fair", "last_rounds")]
    assert results[0].input_ids.tolist() == results[1].input_ids.tolist()
