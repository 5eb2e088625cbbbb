"""The table that `tests/gpu/run.sh` writes, from figures as `bench` gives them."""

import pytest

from tests.gpu.table import find_peak, render


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA A10G", 70.0),
        ("NVIDIA L40S", 362.0), ("Tesla T4", 65.0), ("NVIDIA A100-SXM4-80GB", 312.0), ("Some other", None),
    ],
)  # fmt: skip
def test_a_device_has_the_peak_of_the_longest_name_in_it(name, peak):
    assert find_peak(name) == peak


def median(value):
    return {"median": value, "spread": [value, value]}


def test_a_line_states_the_share_of_the_peak_and_a_failure_its_reason():
    own = {
        "pipeline": "own", "dropout": 0.0, "rows_per_step": 64, "precision": "bf16", "failure": "",
        "not_installed": False, "rows_per_second": median(500.0), "tokens_per_second": median(200_000.0),
        "padding_share": median(0.01), "linear_flops_per_second": median(494.7e12), "peak_cuda_bytes": median(40e9),
    }  # fmt: skip
    seed = own | {"pipeline": "seed", "failure": "Traceback\nCUDA out of memory"}
    table = render("NVIDIA H200", [{"model": "deberta-v3-large", "max_tokens": 512, "columns": [own, seed]}])
    assert "peak 989.4 TFLOP/s" in table
    assert "| own, dropout 0 | 64 | 500.0 | 200,000 | 1.0% | 494.7 | 50.0% | 40.0 |" in table
    assert "| seed, dropout 0 | 64 | CUDA out of memory |" in table
