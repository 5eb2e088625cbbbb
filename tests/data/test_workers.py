import multiprocessing

import pytest

from pref_dist.data import workers
from pref_dist.data.encode import RowEncoder
from pref_dist.data.rows import Row, Turn
from pref_dist.data.workers import CHARACTERS_PER_CHUNK, count_cores, count_workers, encode_chunks, iterate_chunks
from pref_dist.errors import DataError


def build_rows(num_rows: int, text: str = "fox") -> list[Row]:
    return [Row(number, str(number), (Turn(text, text, text),), None) for number in range(num_rows)]


def test_chunks_keep_every_row_in_order():
    rows = build_rows(1300)
    chunks = list(iterate_chunks(rows))
    assert [len(chunk) for chunk in chunks] == [512, 512, 276]
    assert [row for chunk in chunks for row in chunk] == rows


def test_long_rows_make_small_chunks():
    assert [len(chunk) for chunk in iterate_chunks(build_rows(3, "x" * CHARACTERS_PER_CHUNK))] == [1, 1, 1]


def test_few_chunks_are_under_way_at_a_time(wordpiece):
    taken = []
    chunks = (taken.append(index) or build_rows(2) for index in range(100))
    encoded = encode_chunks(chunks, RowEncoder(wordpiece, 96), num_workers=1)
    next(encoded)
    assert len(taken) < 10
    encoded.close()


def test_a_dead_worker_is_an_error_that_names_the_setting(wordpiece):
    def chunks():
        yield build_rows(2)
        for child in multiprocessing.active_children():
            child.kill()
        yield build_rows(2)
        yield build_rows(2)

    with pytest.raises(DataError, match=r"data\.num_workers"):
        list(encode_chunks(chunks(), RowEncoder(wordpiece, 96), num_workers=1))


def test_the_number_of_workers_is_the_wish_or_what_the_size_pays_for():
    num_cores = count_cores()
    large = workers.WORKERS_PAY_FROM_BYTES
    assert count_workers(0, large) == 0
    assert count_workers(3, 1) == 3
    assert count_workers(None, large - 1) == 0
    assert count_workers(None, large) == (num_cores if num_cores > 1 else 0)
