"""Fast attention gives what transformers' gives: results and gradients, for every kind of DeBERTa-v2 and v3."""

import copy
import dataclasses

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2Model

from pref_dist.models.deberta import packs, use_fast_attention
from pref_dist.models.packed_rows import find_rows

V3 = {
    "relative_attention": True, "position_buckets": 256, "max_relative_positions": -1, "pos_att_type": "p2c|c2p",
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
KINDS = {
    "v3": V3,
    "v2 xlarge, with its convolution": {**V3, "conv_kernel_size": 3, "conv_act": "gelu"},
    "own projections of positions, few buckets": {
        **V3, "share_att_key": False, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16, "norm_rel_ebd": "none",
    },
    "a bucket a distance, to a maximum": {**V3, "position_buckets": -1, "max_relative_positions": 40},
    "a bucket a distance": {**V3, "position_buckets": -1, "share_att_key": False},
    "buckets to a maximum": {**V3, "position_buckets": 32, "max_relative_positions": 128},
    "c2p alone": {**V3, "pos_att_type": "c2p", "share_att_key": False},
    "p2c alone": {**V3, "pos_att_type": "p2c", "share_att_key": False},
    "p2c alone, shared": {**V3, "pos_att_type": ["p2c"]},
    "relative without a term": {**V3, "pos_att_type": None},
    "not relative": {**V3, "relative_attention": False, "position_biased_input": True, "type_vocab_size": 2},
    "not relative, but scaled as if": {**V3, "relative_attention": False},
    "heads of a given size": {**V3, "attention_head_size": 4},
}  # fmt: skip
PACKED_KINDS = [kind for kind in KINDS if "convolution" not in kind]
LENGTHS = (1, 2, 17, 64, 127, 128, 129, 130, 300, 512, 600)


def build_model(dtype=torch.float64, dropout=0.0, **settings):
    torch.manual_seed(1)
    config = DebertaV2Config(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4 if "attention_head_size" in settings
        else 2, intermediate_size=24, max_position_embeddings=512, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.2, **settings,
    )  # fmt: skip
    return DebertaV2Model(config).to(dtype).train()


def build_fast(model):
    fast = copy.deepcopy(model)
    use_fast_attention(fast)
    return fast


def draw_rows(longest, dtype=torch.float64):
    """Return embeddings, a mask of three lengths, and weights of the real tokens' outputs."""
    torch.manual_seed(longest)
    lengths = torch.tensor([longest, max(1, longest // 3), max(1, longest - 1)])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    embeddings = torch.randn(3, longest, 16, dtype=dtype)
    return embeddings, mask, torch.randn(3, longest, 16, dtype=dtype)


def run_padded(model, embeddings, mask, weights):
    """Return the real tokens' outputs, and the gradients of the embeddings and all parameters, by name."""
    embeddings = embeddings.clone().requires_grad_()
    output = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    return finish(model, output, output[mask.bool()], weights[mask.bool()], embeddings)


def run_packed(model, embeddings, mask, weights, waits=True, knows_lengths=False):
    """The same with rows packed; waits=False as on a GPU, whose lengths the host knows only if it is told."""
    rows = find_rows(mask, lengths=tuple(mask.sum(1).tolist()) if knows_lengths else None)
    embeddings = embeddings.clone().requires_grad_()
    model.encoder.packed_rows = rows if waits else dataclasses.replace(rows, lengths=None)
    output = model(inputs_embeds=rows.pack(embeddings)[None], position_ids=rows.positions[None]).last_hidden_state
    model.encoder.packed_rows = None
    return finish(model, output, output[0], rows.pack(weights), embeddings)


def finish(model, output, real, weights, embeddings):
    is_fast = type(model.encoder).__name__ == "FastEncoder"
    # The second on a GPU.
    num_nodes = count_nodes(output, "_AttentionBackward") + count_nodes(output, "_FusedAttentionBackward")
    assert num_nodes == (model.config.num_hidden_layers if is_fast else 0)
    model.zero_grad()
    (real * weights).sum().backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"output": real.detach(), "embeddings": embeddings.grad, **grads}


def count_nodes(output, name):
    """Return how many operations of this name the output comes from."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return sum(node.name() == name for node in seen)


def check_close(found, expected, tolerance, smallest=1e-2):
    """Compare norms of differences, relative to the gradient's norm or this share of the largest one."""
    largest = max(value.norm().item() for name, value in expected.items() if name != "output")
    for name in expected.keys() | found.keys():
        reference = expected[name] if name in expected else torch.zeros(())
        value = found[name] if name in found else torch.zeros_like(reference)
        # Some gradients are zero but for rounding: a key's bias moves all scores of a row alike.
        scale = max(reference.norm().item(), smallest * largest)
        assert (value - reference).norm().item() <= tolerance * scale, name


def check_all_ways(kind, longest, dtype, tolerance, smallest=1e-2):
    model = build_model(dtype, **KINDS[kind])
    fast = build_fast(model)
    rows = draw_rows(longest, dtype)
    expected = run_padded(model, *rows)
    check_close(run_padded(fast, *rows), expected, tolerance, smallest)
    if kind in PACKED_KINDS:
        check_close(run_packed(fast, *rows), expected, tolerance, smallest)
        check_close(run_packed(fast, *rows, waits=False), expected, tolerance, smallest)


@pytest.mark.parametrize("longest", LENGTHS)
def test_every_length_equals_transformers_in_float64(longest):
    check_all_ways("v3", longest, torch.float64, 1e-10)


@pytest.mark.parametrize("longest", LENGTHS)
def test_every_length_equals_transformers_in_float32(longest):
    check_all_ways("v3", longest, torch.float32, 1e-5, smallest=0.1)


@pytest.mark.parametrize("longest", [2, 17, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_transformers_in_float64(kind, longest):
    check_all_ways(kind, longest, torch.float64, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_transformers_in_float32(kind):
    check_all_ways(kind, 140, torch.float32, 1e-5, smallest=0.1)


@pytest.mark.parametrize("shape", ["left", "holes"])
def test_any_mask_of_tokens_equals_transformers(shape):
    model = build_model(**V3)
    embeddings, mask, weights = draw_rows(70)
    if shape == "left":
        mask = mask.flip(1)
    else:
        mask[:, 1:50:3] = 0
    expected = run_padded(model, embeddings, mask, weights)
    check_close(run_padded(build_fast(model), embeddings, mask, weights), expected, 1e-10)


def test_any_mask_of_pairs_equals_transformers():
    model = build_model(**V3)
    embeddings, _, weights = draw_rows(70)
    # Every query has a key: what it would see else is an accident.
    mask = (torch.rand(3, 70, 70) < 0.5).long() | torch.eye(70, dtype=torch.long)

    def encode(encoder):
        hidden = embeddings.clone().requires_grad_()
        output = encoder(hidden, mask).last_hidden_state
        return (
            output.detach(),
            *torch.autograd.grad((output * weights).sum(), [hidden, encoder.rel_embeddings.weight]),
        )

    for found, expected in zip(encode(build_fast(model).encoder), encode(model.encoder), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_row_without_tokens_does_not_disturb_the_others():
    model = build_model(**V3)
    embeddings, mask, weights = draw_rows(20)
    mask[1] = 0
    expected = run_padded(model, embeddings, mask, weights)
    fast = build_fast(model)
    check_close(run_padded(fast, embeddings, mask, weights), expected, 1e-10)
    check_close(run_packed(fast, embeddings, mask, weights), expected, 1e-10)


def test_only_models_without_a_convolution_pack():
    assert not packs(build_model(**KINDS["v2 xlarge, with its convolution"]).config)
    assert all(packs(build_model(**KINDS[kind]).config) for kind in PACKED_KINDS)
