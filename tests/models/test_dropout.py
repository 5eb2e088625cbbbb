"""The CPU's own dropout: right in probability, and a function of torch's seed alone."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pref_dist.models.dropout import CheapDropout, cheap_dropout, count_dropped, draw_kept, use_cheap_dropout
from pref_dist.models.row_attention import attend_by_products, blocks_of_heads

SHARES = [0.1, 0.5, 1 / 3]


def drop_ones(p, seed, shape=(1000, 1000)):
    torch.manual_seed(seed)
    return cheap_dropout(torch.ones(shape, dtype=torch.float64), p)


@pytest.mark.parametrize("p", SHARES)
def test_the_share_of_dropped_elements_is_p(p):
    dropped = float((drop_ones(p, seed=1) == 0).double().mean())
    assert abs(dropped - p) < 4 * math.sqrt(p * (1 - p) / 1e6) + 1 / 131072


@pytest.mark.parametrize("p", SHARES)
def test_rows_columns_and_neighbours_are_dropped_independently(p):
    dropped = (drop_ones(p, seed=2) == 0).double()
    spread = math.sqrt(p * (1 - p) / 1000)
    for means in (dropped.mean(dim=0), dropped.mean(dim=1)):
        assert abs(float(means.std()) / spread - 1) < 0.1
    centred = dropped - p
    for distance in range(1, 9):
        product = (centred[:, distance:] * centred[:, :-distance]).mean()
        assert abs(float(product)) < 4 * p * (1 - p) / math.sqrt(1e6 - 1000 * distance)


@pytest.mark.parametrize("p", SHARES)
def test_expectation_and_variance_are_those_of_dropout(p):
    values = drop_ones(p, seed=3)
    variance = p / (1 - p)
    assert abs(float(values.mean()) - 1) < 4 * math.sqrt(variance / 1e6)
    assert abs(float(values.var()) / variance - 1) < 0.01


@pytest.mark.parametrize("p", [*SHARES, 0.9, 1e-4])
def test_what_is_kept_is_scaled_by_the_share_that_is_really_kept(p):
    kept_share = 1 - count_dropped(p) / 65536
    assert abs(kept_share - (1 - p)) <= 1 / 131072
    assert float(drop_ones(p, seed=4).max()) == 1 / kept_share


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (0, 5), (7,), (3, 5, 11)])
def test_every_type_and_shape_is_kept(dtype, shape):
    dropped = cheap_dropout(torch.ones(shape, dtype=dtype), 0.25)
    assert (dropped.dtype, dropped.shape) == (dtype, shape)
    assert set(dropped.flatten().tolist()) <= {0.0, float(torch.tensor(4 / 3, dtype=dtype))}


def test_nothing_is_left_at_p_1():
    assert not drop_ones(1.0, seed=5).any()


def test_the_mask_follows_from_torchs_seed_alone():
    assert torch.equal(drop_ones(0.1, seed=6), drop_ones(0.1, seed=6))
    assert not torch.equal(drop_ones(0.1, seed=6), drop_ones(0.1, seed=7))
    torch.manual_seed(6)
    ones = torch.ones(1000, 1000)
    assert not torch.equal(cheap_dropout(ones, 0.1), cheap_dropout(ones, 0.1))


def test_the_number_of_threads_changes_no_mask():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    two = drop_ones(0.1, seed=8)
    torch.set_num_threads(threads)
    assert torch.equal(two, drop_ones(0.1, seed=8))


def with_seed(function):
    def seeded(*inputs):
        torch.manual_seed(9)
        return function(*inputs)

    return seeded


def test_the_backward_uses_the_forwards_mask():
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(with_seed(lambda x: cheap_dropout(x, 0.4)), (x,))


def test_activations_that_are_computed_again_are_dropped_alike():
    layer = nn.Sequential(nn.Linear(8, 8), CheapDropout(0.5), nn.Linear(8, 8), nn.Tanh(), CheapDropout(0.5))
    gradients = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(10)
        layer.zero_grad()
        run(torch.ones(5, 8)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_every_dropout_of_a_model_is_replaced_and_keeps_its_probability_and_mode():
    module = nn.ModuleDict({"a": nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.0)), "b": nn.Dropout(0.2)}).eval()
    use_cheap_dropout(module)
    kinds = [(type(part), part.p, part.training) for part in module.modules() if isinstance(part, nn.Dropout)]
    assert kinds == [(CheapDropout, 0.1, False), (nn.Dropout, 0.0, False), (CheapDropout, 0.2, False)]


def test_in_evaluation_nothing_is_dropped_and_no_number_is_drawn():
    dropout, x = CheapDropout(0.5).eval(), torch.randn(5, 5)
    state = torch.get_rng_state()
    assert torch.equal(dropout(x), x)
    assert torch.equal(torch.get_rng_state(), state)


# Of torch, which looks at what a tensor has.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_layer_drops_what_the_layer_itself_drops():
    layer = nn.Sequential(nn.Linear(8, 8), CheapDropout(0.5), nn.Linear(8, 8))
    compiled = torch.compile(layer, backend="aot_eager", dynamic=True)
    results = []
    for run in (layer, compiled):
        torch.manual_seed(11)
        results.append(run(torch.ones(5, 8)))
    assert torch.equal(*results)


def attend_step_by_step(q, k, v, scaling, p):
    """Attention written out, with the mask that `attend_by_products` draws."""
    probabilities = torch.softmax(q @ k.transpose(-1, -2) * scaling, dim=-1)
    num_dropped = count_dropped(p)
    kept = draw_kept(probabilities.shape, num_dropped)
    return probabilities * kept * (65536 / (65536 - num_dropped)) @ v


def rows_of_heads(num_heads, num_tokens, width=8, dtype=torch.float64, num_rows=1):
    """Return q, k and v as they lie in a packed sequence: tokens first, of which a slice is the rows."""
    torch.manual_seed(12)
    packed = torch.randn(3, 2 + num_rows * num_tokens, num_heads, width, dtype=dtype)
    return [one[2:].unflatten(0, (num_rows, num_tokens)).transpose(1, 2).requires_grad_() for one in packed]


# Of 1,100 tokens each head is a block by itself.
@pytest.mark.parametrize(("num_heads", "num_tokens", "num_rows"), [(1, 1, 1), (3, 37, 1), (3, 37, 4), (2, 1100, 1)])
def test_attention_with_dropout_is_that_written_out_and_so_are_its_gradients(num_heads, num_tokens, num_rows):
    results = []
    for attend in (attend_by_products, attend_step_by_step):
        inputs = rows_of_heads(num_heads, num_tokens, num_rows=num_rows)
        torch.manual_seed(13)
        output = attend(*inputs, 0.3, 0.1)
        output.backward(torch.cos(torch.arange(output.numel(), dtype=torch.float64)).view(output.shape))
        results.append([output.detach(), *(one.grad for one in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_gradients_of_attention_are_those_of_differences():
    inputs = [one.detach().requires_grad_() for one in rows_of_heads(2, 5, width=3)]
    assert torch.autograd.gradcheck(with_seed(lambda q, k, v: attend_by_products(q, k, v, 0.5, 0.3)), inputs)


def test_the_mean_over_masks_is_attention_without_dropout():
    q, k, v = (one.detach() for one in rows_of_heads(2, 16))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5)
    draws = torch.stack([attend_by_products(q, k, v, 0.5, 0.1) for _ in range(4000)])
    error = draws.std(dim=0) / math.sqrt(4000)
    assert float(((draws.mean(dim=0) - expected) / error).abs().max()) < 5


def test_blocks_of_heads_are_few_and_of_about_one_size():
    assert blocks_of_heads(12, 256) == [slice(0, 12)]
    assert blocks_of_heads(12, 300) == [slice(0, 6), slice(6, 12)]
    assert blocks_of_heads(5, 512) == [slice(0, 3), slice(3, 5)]
    assert blocks_of_heads(2, 1100) == [slice(0, 1), slice(1, 2)]


def attend_in(dtype, narrow):
    """Return the output in fp32 for inputs of 16 bits, and the gradients."""
    inputs = [one.detach().to(dtype).requires_grad_() for one in narrow]
    torch.manual_seed(14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attend_by_products(*inputs, 0.5, 0.1)
    assert output.dtype == dtype
    output.backward(torch.cos(torch.arange(output.numel())).view(output.shape).to(dtype))
    return [output.detach().float(), *(one.grad.float() for one in inputs)]


def test_attention_in_fp16_is_computed_in_fp32():
    narrow = [one.detach().half() for one in rows_of_heads(2, 90, dtype=torch.float32)]
    assert torch.equal(attend_in(torch.float16, narrow)[0], attend_in(torch.float32, narrow)[0].half().float())


def test_attention_in_bf16_drops_the_same_and_rounds_no_scores():
    narrow = [3 * one.detach().bfloat16() for one in rows_of_heads(2, 90, dtype=torch.float32)]
    for found, wide in zip(attend_in(torch.bfloat16, narrow), attend_in(torch.float32, narrow), strict=True):
        assert float((found - wide).norm() / wide.norm()) < 0.006
