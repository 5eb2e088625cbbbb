import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.seen import SeenKeys, key_of

KEYS = st.one_of(st.integers(0, 30), st.integers(2**64 - 5, 2**64 - 1), st.integers(0, 2**64 - 1))
CALLS = st.lists(st.lists(KEYS, max_size=20), max_size=30)


def as_keys(keys) -> np.ndarray:
    return np.array(keys, dtype=np.uint64)


@given(CALLS, st.integers(1, 8))
def test_keys_are_found_where_a_dict_finds_them(calls, num_recent):
    seen, first_row, row = SeenKeys(num_recent), {}, 0
    for keys in calls:
        rows = np.arange(row + 1, row + 1 + len(keys))
        expected = []
        for key in keys:
            row += 1
            expected.append(first_row.get(key, 0))
            first_row.setdefault(key, row)
        assert seen.find_or_add(as_keys(keys), rows).tolist() == expected
    assert len(seen) == len(first_row)


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_a_million_keys_are_found_where_they_stood_first(order):
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 1_500_000, 1_000_000).astype(np.uint64)
    if order != "random":
        keys = np.sort(keys) if order == "rising" else np.sort(keys)[::-1]
    rows = np.arange(1, len(keys) + 1)
    seen = SeenKeys(num_recent=5_000)
    borders = np.sort(generator.integers(0, len(keys), 300))
    found = np.concatenate(
        [seen.find_or_add(*call) for call in zip(np.split(keys, borders), np.split(rows, borders), strict=True)]
    )
    different, first, place = np.unique(keys, return_index=True, return_inverse=True)
    assert len(seen) == len(different)
    assert np.array_equal(found, np.where(first[place] + 1 == rows, 0, first[place] + 1))


def test_a_million_keys_take_seconds_and_twenty_bytes_each_beyond_the_dict():
    keys = np.random.default_rng(1).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    rows = np.arange(1, len(keys) + 1)
    seen = SeenKeys(num_recent=2**12)
    tracemalloc.start()
    start = time.perf_counter()
    for place in range(0, len(keys), 512):
        seen.find_or_add(keys[place : place + 512], rows[place : place + 512])
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 30.0  # 3 s on an idle machine, most of it tracing; see EXPERIMENTS.md
    assert peak - 2**12 * 200 < 20 * len(keys) + 2**18 * 8 * 4


def test_a_key_is_the_same_for_ever_and_any_string_has_one():
    assert key_of("30192") == 16401571872476673131
    assert len({key_of(text) for text in ["", " ", "a", "A", "1", "01", "\ud800", "é", "e\u0301"]}) == 9


def test_rows_count_from_one():
    with pytest.raises(AssertionError):
        SeenKeys().find_or_add(as_keys([1]), np.array([0]))


def test_a_call_without_keys_finds_nothing():
    assert len(SeenKeys().find_or_add(as_keys([]), np.empty(0, np.int64))) == 0
