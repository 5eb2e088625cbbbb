import hashlib
import time
import tracemalloc
from collections.abc import Iterable
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pref_dist.data.mixing import mix64
from pref_dist.data.plan import MicroBatch, Plan, cut_steps, padded_tokens, plan_evaluation, plan_order, share_out
from pref_dist.errors import PlanError


def make_plan(num_rows=257, rows_per_step=32, token_budget=2000, multiple=1, epochs=2, seed=5, **others) -> Plan:
    lengths = np.random.default_rng(0).integers(5, 300, num_rows).astype(np.int32)
    rows = np.arange(num_rows, dtype=np.int64) * 2 + 1
    return Plan(rows, lengths, rows_per_step, token_budget, multiple, seed, epochs, **others)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_row_is_seen_exactly_once_an_epoch_whatever_the_world_size(world_size):
    plan = make_plan()
    seen = {0: [], 1: []}
    for planned in plan.steps():
        for rank in range(world_size):
            for micro_batch in planned.for_rank(rank, world_size):
                seen[planned.epoch].extend(micro_batch.rows.tolist())
    for rows in seen.values():
        assert sorted(rows) == plan.rows.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_all_ranks_run_equally_many_micro_batches_and_spare_ones_hold_no_row(world_size):
    for planned in make_plan().steps():
        shares = [planned.for_rank(rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        indices = [part.index for share in shares for part in share]
        assert len(set(indices)) == len(indices)
        assert sum(len(part.rows) for share in shares for part in share) == planned.num_rows


def test_a_step_holds_rows_per_step_rows_and_the_last_of_an_epoch_the_rest():
    plan = make_plan(num_rows=100, rows_per_step=32)
    assert [planned.num_rows for planned in plan.steps()] == [32, 32, 32, 4] * 2
    assert plan.steps_per_epoch == 4
    assert plan.num_steps == 8


def test_max_steps_ends_the_plan_early():
    assert len(list(make_plan(max_steps=3).steps())) == 3


def test_a_plan_from_a_later_step_on_goes_on_as_if_it_had_never_stopped():
    plan = make_plan()
    whole = list(plan.steps())
    for start in (0, 1, 8, 9, 10, 17):
        for left, right in zip(plan.steps(start), whole[start:], strict=True):
            assert left.step == right.step
            pairs = zip(left.micro_batches, right.micro_batches, strict=True)
            assert all(np.array_equal(one.rows, other.rows) for one, other in pairs)


def test_epochs_and_seeds_give_other_orders():
    orders = [plan_order(1000, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(1000)) for order in orders)


def test_the_order_of_rows_is_the_one_that_old_checkpoints_were_written_with():
    # A change here would make every existing checkpoint refuse to resume.
    digest = hashlib.sha256(plan_order(1000, 42, 3).astype("<i8").tobytes()).hexdigest()
    assert digest == "d28828c13b403c775f1c8347123f7dab03d5bbf93e086eb64af9b2c3e8b41906"


def test_mix64_is_splitmix64():
    # First outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567.
    state = np.uint64(1234567)
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        states = [state + step * np.uint64(number) for number in range(3)]
    assert [int(mix64(value)) for value in states] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def content_of(micro_batches: Iterable[MicroBatch]) -> str:
    return repr([(part.index, part.rows.tolist()) for part in micro_batches])


@pytest.mark.parametrize(
    ("change", "digest", "content"),
    [
        ({}, "bb1aaf9fc6562cc3", "fc6a702fbc668891"),
        (
            {"num_rows": 2000, "rows_per_step": 64, "token_budget": 3000, "multiple": 4},
            "05156dffbc9d43cf",
            "cba6ae4961fbc0ff",
        ),
        (
            {"num_rows": 5000, "rows_per_step": 7, "token_budget": 300, "multiple": 3},
            "3abcb01583ba8b81",
            "45e4a4c6976b63ad",
        ),
        (
            {"num_rows": 90, "rows_per_step": 100, "token_budget": 700, "multiple": 8, "epochs": 3},
            "d6c89d9b713453e2",
            "e944f59129ab62b1",
        ),
    ],
)
def test_plans_are_the_ones_that_old_checkpoints_were_written_with(change, digest, content):
    # A change here would make a resumed run train on other batches than the run that it goes on from.
    plan = make_plan(**change)
    assert plan.digest.startswith(digest)
    seen = hashlib.sha256()
    for planned in plan.steps():
        seen.update(repr((planned.step, planned.epoch, planned.index)).encode())
        seen.update(repr((planned.num_rows, planned.num_tokens, planned.num_padded_tokens)).encode())
        seen.update(content_of(planned.micro_batches).encode())
    assert seen.hexdigest().startswith(content)


def test_evaluation_batches_are_the_same_for_ever():
    generator = np.random.default_rng(3)
    lengths = generator.integers(5, 200, 1000).astype(np.int32)
    batches = plan_evaluation(generator.permutation(3000)[:1000].astype(np.int64), lengths, 400)
    digest = hashlib.sha256(content_of(batches).encode()).hexdigest()
    assert digest.startswith("4cc45c9531d382e6")


def cut_plainly(lengths: np.ndarray, token_budget: int, multiple: int) -> list[int]:
    """The rule for one step in plain words; `cut_steps` does the same for many at once."""
    middles = np.cumsum(lengths) - lengths / 2
    needed = -(-int(lengths.sum()) // token_budget)
    while True:
        count = min(-(-needed // multiple) * multiple, len(lengths))
        borders = [0]
        for place in range(1, count):
            cut = int((middles < lengths.sum() * place / count).sum())
            borders.append(min(max(cut, borders[-1] + 1), len(lengths) - count + place))
        borders.append(len(lengths))
        padded = [(end - start) * lengths[start] for start, end in pairwise(borders)]
        if count == len(lengths) or max(padded) <= token_budget:
            return borders
        needed = count + 1


STEPS = st.integers(1, 60).flatmap(
    lambda width: st.lists(st.lists(st.integers(1, 500), min_size=width, max_size=width), min_size=1, max_size=6)
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, budget=st.integers(500, 3000), multiple=st.integers(1, 5))
def test_no_micro_batch_exceeds_the_budget_or_is_empty_and_their_number_is_a_multiple(steps, budget, multiple):
    lengths = -np.sort(-np.array(steps, dtype=np.int64), axis=1)
    for line, cut in zip(lengths, cut_steps(lengths, budget, multiple), strict=True):
        borders = np.array(cut.borders)
        assert borders[0] == 0
        assert borders[-1] == len(line)
        assert (np.diff(borders) > 0).all()
        padded = padded_tokens(line[None], borders[None])
        assert (padded <= budget).all()
        assert padded.sum() == cut.num_padded_tokens
        count = len(borders) - 1
        assert count % multiple == 0 or count == len(line)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, budget=st.integers(500, 3000), multiple=st.integers(1, 5))
def test_many_steps_are_cut_as_each_would_be_alone_by_the_plain_rule(steps, budget, multiple):
    lengths = -np.sort(-np.array(steps, dtype=np.int64), axis=1)
    cuts = cut_steps(lengths, budget, multiple)
    assert [cut.borders for cut in cuts] == [cut_plainly(line, budget, multiple) for line in lengths]


def test_micro_batches_of_a_step_are_near_equal_in_tokens():
    plan = make_plan(num_rows=2000, rows_per_step=64, token_budget=3000, multiple=4)
    for planned in plan.steps():
        if planned.num_rows == 64:
            tokens = [int(plan.lengths[(part.rows - 1) // 2].sum()) for part in planned.micro_batches]
            assert max(tokens) < 1.25 * sum(tokens) / len(tokens)


def test_padding_stays_small_because_rows_of_a_step_are_sorted():
    padding = [
        1 - planned.num_tokens / planned.num_padded_tokens
        for planned in make_plan(num_rows=2000, rows_per_step=64).steps()
    ]
    assert np.mean(padding) < 0.12


def test_a_row_beyond_the_budget_is_named_with_the_remedy():
    lengths = np.array([10, 4870, 20], dtype=np.int32)
    with pytest.raises(
        PlanError, match=r"1 of 3 rows exceed train.token_budget=4,096 \(first: row 8 with 4,870"
    ) as error:
        Plan(np.array([7, 8, 9]), lengths, 2, 4096, 1, 0, 1)
    assert "raise train.token_budget to 4,870" in str(error.value)


def test_no_rows_are_an_error():
    with pytest.raises(PlanError, match="no row to plan"):
        Plan(np.empty(0, np.int64), np.empty(0, np.int32), 2, 4096, 1, 0, 1)


@pytest.mark.parametrize(
    "change", [{"rows_per_step": 31}, {"token_budget": 2001}, {"multiple": 2}, {"seed": 6}, {"num_rows": 256}]
)
def test_the_digest_names_everything_that_the_batches_depend_on(change):
    assert make_plan().digest == make_plan().digest
    assert make_plan(**change).digest != make_plan().digest


def test_evaluation_batches_hold_every_row_once_longest_first_within_the_budget():
    rows = np.arange(37, dtype=np.int64)
    lengths = np.random.default_rng(1).integers(5, 200, 37).astype(np.int32)
    batches = plan_evaluation(rows, lengths, 400)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == rows.tolist()
    longest = [int(lengths[batch.rows].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch.rows) * top <= 400 for batch, top in zip(batches, longest, strict=True))
    for world_size in (1, 2, 3):
        counts = {len(share_out(batches, rank, world_size)) for rank in range(world_size)}
        assert len(counts) == 1


def plan_at_scale(num_rows: int, epochs: int = 1) -> Plan:
    lengths = np.random.default_rng(0).integers(50, 1024, num_rows).astype(np.int32)
    return Plan(np.arange(num_rows), lengths, 64, 8192, 2, 0, epochs)


@pytest.mark.parametrize(("num_rows", "bound_seconds"), [(55_000, 1.0), (1_000_000, 10.0)])
def test_a_plan_of_many_rows_is_quick(num_rows, bound_seconds):
    # .01 s and .4 s on an idle machine; see EXPERIMENTS.md
    plan = plan_at_scale(num_rows, epochs=3)
    start = time.perf_counter()
    assert sum(planned.num_rows for planned in islice(plan.steps(), plan.steps_per_epoch)) == num_rows
    assert next(plan.steps(2 * plan.steps_per_epoch)).epoch == 2
    assert sum(len(batch.rows) for batch in plan_evaluation(plan.rows, plan.lengths, 16384)) == num_rows
    assert time.perf_counter() - start < bound_seconds


def test_a_plan_takes_few_bytes_a_row_and_no_more_on_more_ranks():
    plan, peaks = plan_at_scale(300_000), []
    for world_size in (1, 64):
        tracemalloc.start()
        num_mine = sum(len(planned.for_rank(0, world_size)) for planned in plan.steps())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert num_mine >= plan.num_steps
    assert peaks[1] < 1.05 * peaks[0]
    # The order and its 64-bit keys, the temporary words of the hash, and a block of steps.
    assert peaks[0] < 60 * len(plan.rows)
