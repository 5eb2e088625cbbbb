"""The kernels of DeBERTa's attention, run by Triton's interpreter on a CPU where Triton is installed.

tests/gpu/test_gpu_deberta.py has the same of compiled ones, for every kind of model.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pref_dist.models.deberta import gpu, modules
from pref_dist.models.deberta.rows import find_fused
from pref_dist.models.packed_rows import find_rows
from tests.models.test_deberta_attention import (
    KINDS,
    build_fast,
    build_model,
    check_close,
    draw_rows,
    run_packed,
    run_padded,
)

NUM_TOKENS = 40  # two blocks
STEP = 1e-2  # of finite differences: the kernels compute in fp32


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch's builds for CUDA")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["v3", "p2c alone", "dropout"])
def test_the_kernels_give_what_transformers_gives(kind):
    root = Path(__file__).parents[2]
    # Triton decides when it is imported.
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.models.test_deberta_kernels", kind]
    subprocess.run(command, env=env, cwd=root, check=True)


def compare(kind):
    slow = build_model(**KINDS[kind])
    rows = draw_rows(NUM_TOKENS)
    expected = run_padded(slow, *rows)
    modules.has_kernels = lambda device, dtype: True  # no GPU is here, and float64 is for the comparison
    gpu.SCORES_OF_A_GROUP = 1
    assert len(gpu.divide_rows([NUM_TOKENS, NUM_TOKENS - 1, NUM_TOKENS // 3])) == 2
    for knows_lengths in (False, True):
        found = run_packed(build_fast(slow), *rows, waits=False, knows_lengths=knows_lengths)
        check_close(found, expected, 1e-6)
    check_close(run_padded(build_fast(slow), *rows), expected, 1e-6)


def compare_dropout():
    """With the same mask, the gradient is what a small step changes."""
    torch.manual_seed(0)
    mask = (torch.arange(20) < torch.tensor([20, 7])[:, None]).long()
    rows = find_fused(mask, find_rows(mask)).fused
    distances = modules.find_distances(32, 8, 16, mask.device)
    terms = rows.find_terms(distances, True, True)
    shapes = [(27, 2, 8)] * 3 + [(2, distances.end - distances.first, 2, 8)]
    values = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(27, 2, 8, dtype=torch.float64)

    def find_sum(values):
        torch.manual_seed(1)
        return (gpu.attend_fused(*values, terms, rows, 0.3, dropout=0.25) * weights).sum()

    grads = torch.autograd.grad(find_sum(values), values)
    for number, grad in enumerate(grads):
        way = torch.randn_like(grad)
        with torch.no_grad():
            sums = [
                find_sum([v + sign * STEP * way if n == number else v for n, v in enumerate(values)])
                for sign in (1, -1)
            ]
        expected = float(sums[0] - sums[1]) / (2 * STEP)
        found = float((grad * way).sum())
        assert abs(found - expected) < 1e-3 * max(1.0, abs(expected)), (number, found, expected)


if __name__ == "__main__":
    compare_dropout() if sys.argv[1] == "dropout" else compare(sys.argv[1])
