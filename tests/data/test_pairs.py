from hypothesis import given, settings
from hypothesis import strategies as st

from pref_dist.data.pairs import pair_of
from pref_dist.data.rows import Turn

TEXTS = st.sampled_from(["", "a", "b", "aa", "é", "\ud800", '"', ","])
TURNS = st.lists(st.builds(Turn, TEXTS, TEXTS, TEXTS), min_size=1, max_size=3)


@given(TURNS)
@settings(derandomize=True, max_examples=300)
def test_a_swapped_duplicate_has_the_same_hash_and_one_of_the_two_is_mirrored(turns):
    swapped = [Turn(turn.prompt, turn.response_b, turn.response_a) for turn in turns]
    pair, is_mirrored = pair_of(turns)
    swapped_pair, swapped_is_mirrored = pair_of(swapped)
    assert pair == swapped_pair < 2**64
    assert is_mirrored + swapped_is_mirrored == (swapped != turns)


@given(TURNS, TURNS)
@settings(derandomize=True, max_examples=300)
def test_other_conversations_have_other_hashes(turns, others):
    swapped = [Turn(turn.prompt, turn.response_b, turn.response_a) for turn in turns]
    assert (pair_of(turns)[0] == pair_of(others)[0]) == (others in (turns, swapped))


def test_borders_between_texts_and_turns_count():
    pairs = {
        pair_of([Turn("ab", "c", "d")])[0],
        pair_of([Turn("a", "bc", "d")])[0],
        pair_of([Turn("a", "c", "d"), Turn("b", "", "")])[0],
        pair_of([Turn('a", "b', "c", "d")])[0],
    }
    assert len(pairs) == 4


def test_the_hash_is_the_same_in_every_process():
    assert pair_of([Turn("p", "b", "a")]) == (12382901700631914431, True)
