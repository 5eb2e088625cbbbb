"""The kernels of DeBERTa's attention, run by Triton's interpreter on a CPU where Triton is installed.

tests/gpu/test_gpu_deberta.py has the same of compiled ones, for every kind of model.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from pref_dist.models.deberta import modules
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


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch's builds for CUDA")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["v3", "p2c alone"])
def test_the_kernels_give_what_transformers_gives(kind):
    # Triton decides when it is imported.
    env = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.models.test_deberta_kernels", kind], env=env, check=True
    )


def compare(kind):
    slow = build_model(**KINDS[kind])
    rows = draw_rows(NUM_TOKENS)
    expected = run_padded(slow, *rows)
    modules.has_kernels = lambda device, dtype: True  # no GPU is here, and float64 is for the comparison
    for knows_lengths in (False, True):
        found = run_packed(build_fast(slow), *rows, waits=False, knows_lengths=knows_lengths)
        check_close(found, expected, 1e-6)
    check_close(run_padded(build_fast(slow), *rows), expected, 1e-6)


if __name__ == "__main__":
    compare(sys.argv[1])
