"""Batches of training come from a thread: those of the plan, in its order, with their errors where they are due."""

import operator
import sys
import threading

import pytest
import torch

from pref_dist.config.load import load_config
from pref_dist.data.batches import build_batch
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import stand_alone
from pref_dist.train import feed
from pref_dist.train.assemble import TrainOptions, assemble, plan_rows
from pref_dist.train.feed import NUM_AHEAD, feed_again, feed_steps
from pref_dist.train.resume import settle_config

NUM_STEPS = 6


@pytest.fixture
def run(write_run):
    run_yaml, _ = write_run("fed", train={"max_steps": NUM_STEPS, "token_budget": 300})
    parallel = stand_alone("cpu")
    config = settle_config(load_config(run_yaml), None, parallel, False)
    return assemble(
        config, plan_rows(config, parallel, None), None, parallel, Speaker(False, sys.stderr), TrainOptions()
    )


def threads_of_batches():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def assert_same(one, other):
    assert one.inputs.keys() == other.inputs.keys()
    for name, value in one.inputs.items():
        same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
        assert same(value, other.inputs[name]), name
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.weight, other.weight)


def test_the_batches_are_those_of_the_plan_also_from_a_later_step_on(run):
    run.progress.step = 2
    steps = list(run.plan.steps(2))
    for fed, planned in zip(feed_steps(run), steps, strict=True):
        assert fed.planned.step == planned.step
        again = feed_again(run, planned)
        for batch, other, micro_batch in zip(fed.batches, again.batches, planned.micro_batches, strict=True):
            assert_same(batch, other)
            assert_same(batch, build_batch(run.train_table, micro_batch, run.layout))
    assert not threads_of_batches()


def test_the_next_steps_first_batches_are_built_while_a_step_is_under_way(run, monkeypatch):
    built = []
    build = feed.build_on_host

    def note(run, micro_batch):
        built.append(micro_batch)
        return build(run, micro_batch)

    monkeypatch.setattr(feed, "build_on_host", note)
    steps = feed_steps(run)
    first = next(steps)
    list(first.batches)
    for _ in range(1000):
        if len(built) == len(first.micro_batches) + NUM_AHEAD:
            break
        threading.Event().wait(0.005)
    assert len(built) == len(first.micro_batches) + NUM_AHEAD, "of the next step, and no more"
    steps.close()
    assert not threads_of_batches(), "a loop that ends early leaves no thread"


def test_an_error_comes_where_its_batch_is_due(run, monkeypatch):
    broken = list(run.plan.steps())[3].micro_batches[1]
    build = feed.build_on_host

    def fail(run, micro_batch):
        if micro_batch.rows.tolist() == broken.rows.tolist():
            raise OSError("the cache's disk is gone")
        return build(run, micro_batch)

    monkeypatch.setattr(feed, "build_on_host", fail)
    steps = feed_steps(run)
    for _ in range(3):
        list(next(steps).batches)
    batches = next(steps).batches
    next(batches)
    with pytest.raises(OSError, match="the cache's disk is gone"):
        next(batches)
    steps.close()
    assert not threads_of_batches()
