"""The table of `run.sh`: what `pref-dist bench train --json` has measured on a GPU, as shares of its peak.

    python -m tests.gpu.table BENCH.json ... > table.md

MFU: multiply-adds of the linear layers on real tokens (padding does not count, nor does attention's own product, so
that the true one is a little higher), forward and backward, over the device's dense peak.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

# Dense 16-bit tensor-core peak with fp32 sums, TFLOP/s, as the vendor's data sheets state it (half of what they state
# with sparsity). The longest name that is part of the device's wins.
PEAK_TFLOPS = {
    "V100": 125.0, "T4": 65.0, "A10": 125.0, "A10G": 70.0, "A30": 165.0, "A100": 312.0, "L4": 121.0, "L40S": 362.0,
    "RTX 3090": 71.0, "RTX 4090": 165.2, "H100": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H200": 989.4,
    "GH200": 989.4, "B200": 2250.0,
}  # fmt: skip
HEADER = (
    "| model | cap | precision | pipeline | rows a step | rows/s | real tokens/s | padding | linear TFLOP/s | MFU | "
    "peak memory GB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def find_peak(device_name: str) -> float | None:
    """Return the peak of the device in TFLOP/s, None for one that is not known here."""
    names = [name for name in PEAK_TFLOPS if name in device_name]
    return PEAK_TFLOPS[max(names, key=len)] if names else None


def render(device_name: str, results: list[dict[str, Any]]) -> str:
    peak = find_peak(device_name)
    known = "not known to tests/gpu/table.py, so that no MFU is stated" if peak is None else f"{peak:g} TFLOP/s"
    lines = [f"{device_name}; peak {known}; torch {torch.__version__}", "", HEADER]
    lines += [render_line(result, column, peak) for result in results for column in result["columns"]]
    return "\n".join(lines)


def render_line(result: dict[str, Any], column: dict[str, Any], peak: float | None) -> str:
    dropout = "" if column["dropout"] is None else f", dropout {column['dropout']:g}"
    start = f"| {result['model']} | {result['max_tokens']} "
    name = f"{column['pipeline']}{dropout}"
    if column["failure"] or column["not_installed"]:
        reason = column["failure"].splitlines()[-1] if column["failure"] else "not installed"
        return f"{start}| - | {name} | {column['rows_per_step']} | {reason} |||||||"
    tflops = median_of(column, "linear_flops_per_second") / 1e12
    share = "-" if peak is None or column["precision"] == "fp32" else f"{tflops / peak:.1%}"
    memory = median_of(column, "peak_cuda_bytes") / 1e9
    return (
        f"{start}| {column['precision']} | {name} | {column['rows_per_step']} | "
        f"{median_of(column, 'rows_per_second'):.1f} | {median_of(column, 'tokens_per_second'):,.0f} | "
        f"{median_of(column, 'padding_share'):.1%} | {tflops:.1f} | {share} | {memory:.1f} |"
    )


def median_of(column: dict[str, Any], figure: str) -> float:
    return float("nan") if column[figure] is None else float(column[figure]["median"])


def main() -> None:
    results = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    print(render(torch.cuda.get_device_name(0), results))


if __name__ == "__main__":
    sys.exit(main())
