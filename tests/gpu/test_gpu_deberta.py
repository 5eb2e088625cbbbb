"""DeBERTa's attention on a GPU: the kernels give what transformers gives, for every kind of model."""

import pytest
import torch

from pref_dist.doctor.devices import check_triton
from pref_dist.models.deberta import gpu as gpu_attention
from pref_dist.models.deberta.gpu import attend_fused, has_kernels
from pref_dist.models.deberta.rows import find_fused
from tests.models.test_deberta_attention import (
    KINDS,
    PACKED_KINDS,
    build_fast,
    build_model,
    check_close,
    draw_rows,
    run_packed,
    run_padded,
)

# fp32 sums in other orders; of bf16's 16 bits 8 count.
FP32_BOUND, BF16_BOUND = 2e-5, 3e-2


def on(device, *tensors):
    return [tensor.to(device) for tensor in tensors]


def largest_share(found, expected):
    """The norm of the largest difference, as a share of the largest gradient's norm."""
    largest = max(value.norm() for name, value in expected.items() if name != "output")
    return float(max((found[name] - value).norm() for name, value in expected.items() if name != "output") / largest)


@pytest.mark.parametrize("longest", [1, 17, 130, 512, 600])
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_are_those_of_transformers(gpu, kind, longest):
    if longest > 512 and KINDS[kind]["position_biased_input"]:
        pytest.skip("a model with absolute positions has 512 of them")
    slow = build_model(torch.float32, **KINDS[kind]).to(gpu)
    fast = build_fast(slow)
    rows = on(gpu, *draw_rows(longest, torch.float32))
    expected = run_padded(slow, *rows)
    check_close(run_padded(fast, *rows), expected, FP32_BOUND, smallest=0.1)
    if kind in PACKED_KINDS:
        check_close(run_packed(fast, *rows), expected, FP32_BOUND, smallest=0.1)


def test_groups_of_like_lengths_change_nothing(gpu, monkeypatch):
    model = build_model(torch.float32, **KINDS["v3"]).to(gpu)
    rows = on(gpu, *draw_rows(300, torch.float32))
    expected = run_padded(model, *rows)
    monkeypatch.setattr(gpu_attention, "SCORES_OF_A_GROUP", 1)
    assert len(gpu_attention.divide_rows(sorted(rows[1].sum(1).tolist(), reverse=True))) > 1
    check_close(run_packed(build_fast(model), *rows, knows_lengths=True), expected, FP32_BOUND, smallest=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["v3", "c2p alone"])
def test_sixteen_bits_are_as_near_to_float64_as_those_of_transformers(gpu, kind, dtype):
    exact = build_model(torch.float64, **KINDS[kind])
    rows = draw_rows(300)
    expected = {name: value.to(gpu) for name, value in run_padded(exact, *rows).items()}
    gaps = {}
    for name in ("transformers", "fused"):
        model = build_model(torch.float32, **KINDS[kind]).to(gpu)
        model = build_fast(model) if name == "fused" else model
        with torch.autocast("cuda", dtype):
            gaps[name] = largest_share(run_padded(model, *on(gpu, *(row.to(torch.float32) for row in rows))), expected)
    print(f"\n{dtype} against float64, {kind}: {gaps}")
    assert gaps["fused"] < max(BF16_BOUND, 1.5 * gaps["transformers"])


def test_scores_that_fp16_holds_only_when_they_are_scaled_stay_finite(gpu):
    rows = find_fused(torch.ones(1, 64, device=gpu), None).fused
    large = torch.full((64, 1, 64), 33.0, dtype=torch.float16, device=gpu)  # products of 69,696, above fp16's 65,504
    context = attend_fused(large, large, large, None, rows.find_terms(None, False, False), rows, 0.07, dropout=0.0)
    assert torch.equal(context, large)


def test_dropout_keeps_the_mean_and_is_drawn_by_torch(gpu):
    assert has_kernels(gpu, torch.float32)
    assert (check_triton().state, check_triton().remedy) == ("ok", "")
    torch.manual_seed(0)
    query, key = torch.randn(2, 128, 4, 16, device=gpu).unbind(0)
    value = torch.ones(128, 4, 16, device=gpu)
    rows = find_fused(torch.ones(2, 64, device=gpu), None).fused
    terms = rows.find_terms(None, False, False)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(attend_fused(query, key, value, None, terms, rows, 0.25, dropout=0.25))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert abs(float(drawn[0].mean()) - 1.0) < 0.02
