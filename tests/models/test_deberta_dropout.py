"""Dropout of attention probabilities: how many, how the rest is scaled, and that gradients know of it."""

import pytest
import torch

from pref_dist.models.deberta.attention import attend
from pref_dist.models.deberta.rows import EVERYTHING, AttentionRows

WHOLE = AttentionRows([EVERYTHING])


def used_probabilities(dropout, seed=0, num_tokens=100, dtype=torch.float32):
    """Return (heads, T, T) what values are weighted by; before dropout all are 1 / T."""
    torch.manual_seed(seed)
    query = torch.zeros(1, num_tokens, 4, num_tokens, dtype=dtype)
    value = torch.eye(num_tokens, dtype=dtype)[None, :, None, :].expand_as(query)
    return attend(query, query, value, None, None, WHOLE, dropout)[0].transpose(0, 1)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_share_is_dropped_and_the_mean_preserved(dropout):
    used = used_probabilities(dropout)
    num_used = used.numel()
    deviation = (dropout * (1 - dropout) / num_used) ** 0.5
    assert abs((used == 0).double().mean().item() - dropout) < 5 * deviation
    kept = used[used > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 0.01 / (1 - dropout)))
    assert abs(used.sum(-1).mean().item() - 1) < 5 * deviation / (1 - dropout)


def test_heads_and_queries_drop_independently():
    used = used_probabilities(0.5)
    assert not torch.equal(used[0], used[1])
    assert not torch.equal(used[0, 0], used[0, 1])


def test_the_seed_decides_what_is_dropped():
    assert torch.equal(used_probabilities(0.3, seed=1), used_probabilities(0.3, seed=1))
    assert not torch.equal(used_probabilities(0.3, seed=1), used_probabilities(0.3, seed=2))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("rows", ["pieces", "mask"])
@pytest.mark.parametrize("terms", ["c2p", "p2c", "both"])
def test_gradients_are_those_of_the_function_with_its_dropped_places(dropout, rows, terms):
    torch.manual_seed(7)
    sizes = [(2, 5, 2, 3)] * 3 + [(9, 2, 3)] * 2
    inputs = [torch.randn(size, dtype=torch.float64).requires_grad_() for size in sizes]
    if rows == "pieces":
        where = AttentionRows([(slice(0, 1), slice(0, 5)), (slice(1, 2), slice(1, 4))])
    else:
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], dtype=torch.bool)
        where = AttentionRows([EVERYTHING], mask[:, None, None, :])

    def run(query, key, value, key_of_distance, query_of_distance):
        torch.manual_seed(8)
        key_of_distance = None if terms == "p2c" else key_of_distance
        query_of_distance = None if terms == "c2p" else query_of_distance
        return attend(query, key, value, key_of_distance, query_of_distance, where, dropout)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_gradients_in_16_bits_are_near_those_in_64_with_the_same_places_dropped(dtype, most, dropout):
    torch.manual_seed(9)
    sizes = [(1, 150, 2, 16)] * 3 + [(299, 2, 16)] * 2
    narrow = [(0.4 * torch.randn(size)).to(dtype).requires_grad_() for size in sizes]
    wide = [tensor.detach().double().requires_grad_() for tensor in narrow]
    weight = torch.randn(sizes[0]).to(dtype)
    found, exact = [], []
    for inputs, results in ((narrow, found), (wide, exact)):
        torch.manual_seed(10)
        context = attend(*inputs, WHOLE, dropout)
        results += [context.detach(), *torch.autograd.grad(context, inputs, weight.to(context.dtype))]
    for ours, expected in zip(found, exact, strict=True):
        assert (ours.double() - expected).norm() < most * expected.norm()
