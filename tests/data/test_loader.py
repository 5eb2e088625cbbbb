"""The way of rows from the cache to batches: right, nothing tokenised again, and fast enough for any device."""

import time

import numpy as np
import pytest

from pref_dist.config.load import build_config
from pref_dist.data.batches import build_batch
from pref_dist.data.layout import BatchLayout
from pref_dist.data.plan import Plan
from pref_dist.data.prepare import prepare

NUM_EPOCHS = 10
# One core builds 40,000 to 190,000 of these rows a second, and trains MiniLM on fewer than 100.
FEWEST_ROWS_A_SECOND = 8000


@pytest.fixture(scope="module")
def prepared(sample_dir, tiny_model, cache_dir):
    data = {"train": str(sample_dir / "train.csv"), "max_tokens": 96, "cache_dir": str(cache_dir), "num_workers": 0}
    config = build_config({"data": data, "model": {"name": str(tiny_model)}}, "a test")
    prepare(config, tiny_model)
    return prepare(config, tiny_model)


@pytest.fixture(scope="module")
def plan(prepared):
    rows = prepared.train_rows
    return Plan(rows, prepared.train_table.lengths[rows], 8, 1000, 1, seed=3, epochs=NUM_EPOCHS)


def test_a_second_start_tokenises_nothing(prepared):
    assert not any(table.was_built for table in prepared.tables)


def test_a_batch_holds_each_row_and_padding_after_it(prepared, plan):
    table, layout = prepared.train_table, BatchLayout(pad_id=7)
    for micro_batch in next(plan.steps()).micro_batches:
        inputs = build_batch(table, micro_batch, layout).inputs
        for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], micro_batch.rows, strict=True):
            num_tokens = int(mask.sum())
            assert np.array_equal(ids[:num_tokens], table.input_ids(int(row)))
            assert mask[:num_tokens].all()
            assert (ids[num_tokens:] == 7).all()


def test_plan_and_batches_come_many_times_faster_than_training_takes_them(prepared, plan):
    def measure() -> float:
        start = time.thread_time()  # not the clock's: what else runs on the machine is not the loader's fault
        for planned in plan.steps():
            for micro_batch in planned.micro_batches:
                build_batch(prepared.train_table, micro_batch, BatchLayout(pad_id=0))
        return NUM_EPOCHS * len(plan.rows) / (time.thread_time() - start)

    assert max(measure() for _ in range(5)) > FEWEST_ROWS_A_SECOND
