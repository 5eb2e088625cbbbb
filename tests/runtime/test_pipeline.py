"""The thread that builds batches: in order, a little ahead, and its errors come where their turn is."""

import threading

import pytest

from pref_dist.runtime.pipeline import build_ahead


def test_items_come_in_order_built_by_another_thread_at_most_one_ahead():
    built = []

    def build(item):
        built.append(item)
        return item, threading.get_ident()

    for number, (item, thread) in enumerate(build_ahead(build, range(50))):
        assert item == number
        assert thread != threading.get_ident()
        assert len(built) <= number + 2
    assert built == list(range(50))


def test_an_error_is_raised_where_the_item_has_its_turn():
    def build(item):
        if item == 3:
            raise OSError("the disk is gone")
        return item

    items = build_ahead(build, range(10))
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_the_thread_ends_when_nobody_asks_any_more():
    before = threading.active_count()
    items = build_ahead(str, range(10))
    assert next(items) == "0"
    items.close()
    assert threading.active_count() == before
