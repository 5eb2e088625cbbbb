import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.duplicates import find_contradictions, find_duplicate_pairs, find_shared

A, B, TIE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
SOFT, NONE = (0.6, 0.3, 0.1), (np.nan, np.nan, np.nan)


def columns(*rows):
    """Columns of rows (pair, is_mirrored, target); only the target is given as the file has it."""
    pairs, mirrored, targets = zip(*rows, strict=True)
    return np.array(pairs, dtype=np.uint64), np.array(mirrored, dtype=bool), np.array(targets, dtype=np.float64)


def corrected(mirrored, target):
    return (target[1], target[0], target[2]) if mirrored else target


ROWS = st.lists(
    st.tuples(
        st.integers(0, 6).map(lambda pair: pair * 2**61), st.booleans(), st.sampled_from([A, B, TIE, SOFT, NONE])
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS)
def test_duplicates_are_those_of_a_walk_over_the_rows(rows):
    pairs_seen, stories_seen, expected = set(), set(), []
    for place, (pair, mirrored, target) in enumerate(rows):
        story = (pair, corrected(mirrored, target))
        if pair in pairs_seen if target is NONE else story in stories_seen:
            expected.append(place)
        pairs_seen.add(pair)
        if target is not NONE:
            stories_seen.add(story)
    assert find_duplicate_pairs(*columns(*rows)).tolist() == expected


@given(ROWS)
def test_contradictions_are_those_of_a_walk_over_the_rows(rows):
    labels = [None if target is NONE else np.argmax(corrected(mirrored, target)) for _, mirrored, target in rows]
    labels_of = {}
    for (pair, _, _), label in zip(rows, labels, strict=True):
        labels_of.setdefault(pair, set()).update({label} - {None})
    expected = [
        place for place, (pair, _, _) in enumerate(rows) if labels[place] is not None and len(labels_of[pair]) > 1
    ]
    assert find_contradictions(*columns(*rows)).tolist() == expected


def test_a_mirrored_row_with_a_mirrored_label_is_a_duplicate_and_no_contradiction():
    story = columns((7, False, A), (7, True, B), (7, True, A), (8, True, TIE), (8, False, TIE))
    assert find_duplicate_pairs(*story).tolist() == [1, 4]
    assert find_contradictions(*story).tolist() == [0, 1, 2]


def test_soft_labels_contradict_only_in_their_most_probable_class():
    story = columns((7, False, SOFT), (7, False, A), (7, True, (0.3, 0.6, 0.1)), (8, False, SOFT), (8, True, SOFT))
    assert find_duplicate_pairs(*story).tolist() == [2]
    assert find_contradictions(*story).tolist() == [3, 4]


def test_a_label_is_never_lost_to_a_row_without_one():
    story = columns((7, False, NONE), (7, False, A), (7, True, NONE), (7, False, A))
    assert find_duplicate_pairs(*story).tolist() == [2, 3]
    assert find_contradictions(*story).tolist() == []


def test_identical_responses_with_different_labels_contradict():
    assert find_contradictions(*columns((7, False, A), (7, False, B))).tolist() == [0, 1]


def test_no_rows_give_no_findings():
    nothing = np.empty(0, np.uint64), np.empty(0, bool), np.empty((0, 3))
    assert len(find_duplicate_pairs(*nothing)) == len(find_contradictions(*nothing)) == 0
    assert len(find_shared(nothing[0], nothing[0])) == 0


def test_shared_rows_are_those_that_stand_in_the_other_set_too():
    test, train = np.array([5, 1, 9, 1, 2**64 - 1], np.uint64), np.array([1, 2**64 - 1, 3, 1], np.uint64)
    assert find_shared(test, train).tolist() == [1, 3, 4]
    assert find_shared(test, train[:0]).tolist() == []


def test_a_million_rows_are_searched_in_seconds():
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, 1_000_000, 1_000_000).astype(np.uint64)
    mirrored, targets = generator.random(len(pairs)) < 0.5, np.eye(3)[generator.integers(0, 3, len(pairs))]
    start = time.perf_counter()
    num_duplicates = len(find_duplicate_pairs(pairs, mirrored, targets))
    num_contradicting = len(find_contradictions(pairs, mirrored, targets))
    assert time.perf_counter() - start < 10.0  # 1 s on an idle machine
    # Each of a million pairs has Poisson(1/3) rows of each class: expected share of rows and its error.
    assert abs(num_duplicates / 1e6 - (1 - 3 * (1 - np.exp(-1 / 3)))) < 0.003
    assert abs(num_contradicting / 1e6 - (1 - np.exp(-2 / 3))) < 0.003
