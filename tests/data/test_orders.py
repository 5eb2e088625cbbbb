"""Orders of A and B: swapped tokens are those of the swapped row, and both orders share a step."""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from pref_dist.config.schema import DataSection
from pref_dist.data.batches import build_batch
from pref_dist.data.encode import RowEncoder
from pref_dist.data.layout import BatchLayout
from pref_dist.data.orders import build_swap_frame, can_swap, check_swap, draw_orders, swap_tokens
from pref_dist.data.pairs import swap_classes
from pref_dist.data.plan import MicroBatch, Plan
from pref_dist.data.render import swap_turn
from pref_dist.data.rows import Row
from pref_dist.errors import ConfigError
from tests.data.test_templates import MAX_TOKENS, TURNS


def build_row(turns, number=1):
    cells = tuple(json.dumps(column, ensure_ascii=False) for column in zip(*turns, strict=True))
    return Row(number, str(number), tuple(turns), (0.0, 1.0, 0.0), cells=cells)


class Rows:
    """A few rows of tokens, as a token table gives them."""

    def __init__(self, encoded):
        self.encoded = encoded
        self.lengths = encoded.lengths.astype(np.int32)
        self.segment_ends = encoded.segment_ends
        self.row_numbers = encoded.rows
        self.training_targets = self.targets = encoded.targets
        self.weights = np.ones(len(encoded.ids))

    def input_ids(self, row):
        start = int(self.lengths[:row].sum())
        return self.encoded.input_ids[start : start + self.lengths[row]]


@pytest.mark.parametrize("policy", ["fair", "last_rounds"])
@settings(derandomize=True, max_examples=60, deadline=None)
@given(turns=TURNS, max_tokens=MAX_TOKENS)
def test_swapped_tokens_are_the_tokens_of_the_swapped_row(tokenizer, policy, turns, max_tokens):
    encoder = RowEncoder(tokenizer, max_tokens, "joint", policy)
    given_row, swapped_row = (
        Rows(encoder.encode([build_row(shown)])) for shown in (turns, [swap_turn(turn) for turn in turns])
    )
    frame = build_swap_frame(tokenizer, DataSection(max_tokens=max_tokens, truncation=policy))
    ids, ends = swap_tokens(given_row.input_ids(0), given_row.segment_ends[0], frame)
    assert ids.tolist() == swapped_row.input_ids(0).tolist()
    assert ends.tolist() == swapped_row.segment_ends[0].tolist()


@pytest.mark.parametrize(
    ("template", "truncation", "expected"),
    [
        ("joint", "fair", True),
        ("joint", "last_rounds", True),
        ("joint", "right", False),
        ("joint", "left", False),
        ("seed_joint", "fair", False),
        ("siamese", "right", True),
        ("seed_siamese", "left", True),
    ],
)
def test_rows_are_swapped_only_where_that_gives_the_swapped_rows_tokens(template, truncation, expected):
    data = DataSection(template=template, truncation=truncation)
    assert can_swap(data) == expected
    check_swap(data, "train.swap", "none")
    if not expected:
        with pytest.raises(ConfigError, match=rf"train.swap=paired .*data.truncation={truncation}.*Use"):
            check_swap(data, "train.swap", "paired")


@pytest.fixture(scope="module")
def joint_rows(tokenizer):
    return read_rows(tokenizer, "joint")


@pytest.fixture(scope="module")
def siamese_rows(tokenizer):
    return read_rows(tokenizer, "siamese")


def read_rows(tokenizer, template):
    from pref_dist.data.rows import Turn

    texts = ["the fox", "a dog, better? " * 9, "zq7 " * 4]
    rows = [build_row([Turn(texts[n % 3], texts[(n + 1) % 3], texts[(n + 2) % 3])], n + 1) for n in range(3)]
    return Rows(RowEncoder(tokenizer, 120, template).encode(rows))


def test_labels_swap_with_the_text_and_a_tie_stays():
    target = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    swapped = swap_classes(target, np.array([True, True, True]))
    assert swapped.tolist() == [[0.0, 1.0, 0.0], [0.3, 0.2, 0.5], [0.0, 0.0, 1.0]]
    assert swap_classes(target, np.array([False, True, False])).tolist() == [
        target[0].tolist(),
        swapped[1].tolist(),
        [0, 0, 1],
    ]


def test_a_batch_shows_a_joint_row_in_both_orders(tokenizer, joint_rows):
    layout = BatchLayout(0, has_segments=True, swap=build_swap_frame(tokenizer, DataSection(max_tokens=120)))
    batch = build_batch(joint_rows, MicroBatch(0, np.array([1, 1, 2]), np.array([False, True, False])), layout)
    assert batch.target.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    lengths = batch.inputs["attention_mask"].sum(dim=1)
    assert lengths[0] == lengths[1] == joint_rows.lengths[1]
    ids, ends = batch.inputs["input_ids"], batch.inputs["segment_ends"]
    assert ids[0].tolist() != ids[1].tolist()
    assert sorted(ids[0].tolist()) == sorted(ids[1].tolist())
    assert ends[0, 0] == ends[1, 0]
    assert ends[0, 2] == ends[1, 2]


def test_a_siamese_row_in_both_orders_is_encoded_once(siamese_rows):
    layout = BatchLayout(0, num_sequences=2)
    rows, orders = np.array([2, 2, 0, 0]), np.array([False, True, False, True])
    batch = build_batch(siamese_rows, MicroBatch(0, rows, orders), layout)
    assert batch.inputs["input_ids"].shape[0] == 4
    assert batch.inputs["sides"].tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert batch.line_rows.tolist() == [2, 2, 0, 0]
    assert batch.target.tolist() == [[0, 1, 0], [1, 0, 0]] * 2
    first = siamese_rows.segment_ends[2][1]
    assert batch.inputs["attention_mask"].sum(dim=1)[0] == first
    assert batch.inputs["attention_mask"].sum(dim=1)[1] == siamese_rows.lengths[2] - first
    widest = int(layout.padded_lengths(siamese_rows)[[2, 0]].max())
    assert batch.inputs["input_ids"].numel() == 2 * widest


def make_plan(swap, **others):
    lengths = np.random.default_rng(0).integers(5, 300, 257).astype(np.int32)
    return Plan(np.arange(257) * 2 + 1, lengths, 32, 2000, 1, 5, 2, swap=swap, **others)


@pytest.mark.parametrize("shares_orders", [False, True])
def test_paired_shows_each_row_in_both_orders_in_the_same_step(shares_orders):
    seen = []
    for planned in make_plan("paired", shares_orders=shares_orders).steps():
        shown = [
            (row, swapped)
            for part in planned.micro_batches
            for row, swapped in zip(part.rows.tolist(), part.is_swapped.tolist(), strict=True)
        ]
        assert len(shown) == 2 * planned.num_rows
        assert {(row, not swapped) for row, swapped in shown} == set(shown)
        seen += [row for row, swapped in shown if not swapped]
    assert sorted(seen) == sorted((np.arange(257) * 2 + 1).tolist() * 2)


def test_paired_costs_a_joint_model_twice_the_tokens_and_a_siamese_one_none():
    once, joint, siamese = (
        sum(planned.num_tokens for planned in plan.steps())
        for plan in (make_plan("none"), make_plan("paired"), make_plan("paired", shares_orders=True))
    )
    assert joint == 2 * once
    assert siamese == once
    for planned in make_plan("paired").steps():
        for part in planned.micro_batches:
            places = (part.rows - 1) // 2
            assert len(places) * make_plan("none").lengths[places].max() <= 2000


def test_random_orders_are_a_fair_coin_of_seed_epoch_and_row():
    rows = np.arange(20_000)
    orders = {(seed, epoch): draw_orders(rows, seed, epoch) for seed in (1, 2) for epoch in (0, 1)}
    for drawn in orders.values():
        assert abs(drawn.mean() - 0.5) < 0.02
    assert abs((orders[1, 0] == orders[1, 1]).mean() - 0.5) < 0.02
    assert abs((orders[1, 0] == orders[2, 0]).mean() - 0.5) < 0.02
    # Of the row alone, whoever its neighbours are.
    assert np.array_equal(draw_orders(rows[500:600], 1, 0), orders[1, 0][500:600])
    shown = {}
    for planned in make_plan("random").steps():
        for part in planned.micro_batches:
            shown.setdefault(planned.epoch, {}).update(zip(part.rows.tolist(), part.is_swapped.tolist(), strict=True))
    assert all(len(orders_of_epoch) == 257 for orders_of_epoch in shown.values())
    assert shown[0] != shown[1]


def test_without_swapping_the_plan_is_the_one_that_old_checkpoints_know():
    assert make_plan("none").digest == make_plan("none", num_tokens=np.ones(257, dtype=np.int32)).digest
    assert len({make_plan(swap).digest for swap in ("none", "random", "paired")}) == 3
    assert all(part.is_swapped is None for planned in make_plan("none").steps() for part in planned.micro_batches)
