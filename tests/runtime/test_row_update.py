"""The update of a table by rows, beside AdamW on the whole table."""

import copy

import pytest
import torch
from torch import nn

from pref_dist.models.row_embedding import RowEmbedding, collect_gradient_by_rows, train_by_rows
from pref_dist.optim import OptimizerSettings, build_parameter_groups
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.replicated import ReplicatedEngine

NUM_TOKENS, PADDING = 12, 0


class Reader(nn.Module):
    """Embeds, adds up and judges: as much of a model as a table needs."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(NUM_TOKENS, 4, padding_idx=PADDING)
        self.head = nn.Linear(4, 3)

    def get_input_embeddings(self):
        return self.table

    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids)).sum(dim=1))


def update_by_rows(module):
    train_by_rows(module, module.table)


def build(change=None, weight_decay=0.1):
    """change: what is done to the table, update_by_rows or collect_gradient_by_rows; None: a dense one."""
    torch.manual_seed(0)
    module = Reader().double()
    if change is not None:
        change(module)
    groups = build_parameter_groups(module, [], OptimizerSettings(0.05, None, weight_decay))
    return module, ReplicatedEngine(module, module, groups, EngineSettings("fp32", 0.5), torch.device("cpu"), 1)


def take_step(module, engine, batches):
    for ids in batches:
        engine.backward(module(ids).pow(2).sum(), is_last=True)
    return engine.step(1.0).read()


def draw_steps(first_token):
    """Return 6 steps of 2 micro-batches of 3 x 5 tokens, padding among them."""
    generator = torch.Generator().manual_seed(1)
    steps = [[torch.randint(first_token, NUM_TOKENS, (3, 5), generator=generator) for _ in range(2)] for _ in range(6)]
    for step in steps:
        step[0][0, 3:] = PADDING
    return steps


def copy_states(engine):
    return {name: copy.deepcopy(state) for name, state in engine.read_state()}


def put_back_rows(engine, before, batches):
    """Give rows of the dense table that no token of the step named their value and moments back."""
    untouched = torch.ones(NUM_TOKENS, dtype=torch.bool)
    untouched[torch.cat([ids.flatten() for ids in batches])] = False
    untouched[PADDING] = True
    after = copy_states(engine)
    for name in ("value", "exp_avg", "exp_avg_sq"):
        getattr(after["table.weight"], name)[untouched] = getattr(before["table.weight"], name)[untouched]
    engine.write_state(after.__getitem__)


@pytest.mark.parametrize("first_token", [1, 8])
def test_rows_of_a_steps_tokens_are_updated_as_adamw_does_and_the_others_are_as_if_there_had_been_no_step(first_token):
    (dense, dense_engine), (sparse, sparse_engine) = build(), build(update_by_rows)
    for batches in draw_steps(first_token):
        before = copy_states(dense_engine)
        norms = [
            take_step(module, engine, batches).grad_norm
            for module, engine in ((dense, dense_engine), (sparse, sparse_engine))
        ]
        put_back_rows(dense_engine, before, batches)
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    assert copy_states(sparse_engine)["table.weight"].step == 6
    check_equal_states(dense_engine, sparse_engine)


@pytest.mark.parametrize("first_token", [1, 8])
def test_a_gradient_by_rows_updates_the_whole_table_as_adamw_does_with_a_dense_one(first_token):
    (dense, dense_engine), (by_rows, engine) = build(), build(collect_gradient_by_rows)
    assert isinstance(by_rows.table, RowEmbedding)
    for batches in draw_steps(first_token) + draw_steps(8):  # in the latter other rows' moments fade, and they decay
        norms = [take_step(*one, batches).grad_norm for one in ((dense, dense_engine), (by_rows, engine))]
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    check_equal_states(dense_engine, engine)
    assert by_rows.table.weight.grad is None
    assert not by_rows.table.spread_gradient.any()


def test_a_frozen_or_a_shared_table_keeps_its_gradient():
    module = Reader()
    module.table.requires_grad_(False)
    collect_gradient_by_rows(module)
    assert type(module.table) is nn.Embedding
    module = Reader()
    module.unembed = nn.Linear(4, NUM_TOKENS, bias=False)
    module.unembed.weight = module.table.weight
    collect_gradient_by_rows(module)
    assert type(module.table) is nn.Embedding, "another module's gradient would be lost"


@pytest.mark.parametrize("change", [update_by_rows, collect_gradient_by_rows])
def test_a_step_of_many_micro_batches_keeps_no_more_rows_than_the_table_has(change):
    (dense, dense_engine), (by_rows, engine) = build(), build(change)
    batches = [torch.arange(1, NUM_TOKENS).view(1, -1)] * 20
    norms = []
    for module, one in ((dense, dense_engine), (by_rows, engine)):
        for ids in batches:
            one.backward(module(ids).pow(2).sum(), is_last=True)
            assert sum(map(len, getattr(module.table, "_gradients", []))) <= NUM_TOKENS
        norms.append(one.step(1.0).read().grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


def test_a_model_without_one_table_is_left_alone():
    module = nn.Linear(2, 2)
    module.get_input_embeddings = lambda: (_ for _ in ()).throw(NotImplementedError)
    collect_gradient_by_rows(module)


def check_equal_states(wanted_engine, found_engine):
    wanted, found = copy_states(wanted_engine), copy_states(found_engine)
    assert wanted.keys() == found.keys()
    for name, state in wanted.items():
        assert found[name].step == state.step
        for one in ("value", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(getattr(found[name], one), getattr(state, one), rtol=0, atol=1e-12)


def test_a_micro_batch_of_weight_0_touches_no_row():
    module, engine = build(update_by_rows)
    take_step(module, engine, draw_steps(1)[0])
    before = copy_states(engine)["table.weight"]
    engine.backward(module(torch.tensor([[5, 6]])).sum() * 0.0, is_last=True)
    engine.step(1.0)
    after = copy_states(engine)["table.weight"]
    assert torch.equal(after.value, before.value)
    assert torch.equal(after.exp_avg, before.exp_avg)
    assert after.step == before.step + 1


@pytest.mark.parametrize("change", [update_by_rows, collect_gradient_by_rows])
def test_a_gradient_of_a_row_that_is_not_finite_changes_nothing_and_is_gone_in_the_next_step(change):
    module, engine = build(change)
    before = copy_states(engine)
    engine.backward(module(torch.tensor([[5, 6]])).sum() * float("nan"), is_last=True)
    assert engine.step(1.0).skipped
    after = copy_states(engine)
    assert all(torch.equal(after[name].value, before[name].value) for name in before)
    assert not take_step(module, engine, draw_steps(1)[0]).skipped


def test_an_evaluation_leaves_no_rows_behind():
    module, _ = build(update_by_rows)
    with torch.no_grad():
        module(torch.tensor([[5, 6]]))
    module.eval()(torch.tensor([[5, 6]]))
    assert len(module.table.take_gradient()[0]) == 0
