"""The numbers of two whole runs, kept: what changes them was meant to, or is a bug.

    PREF_DIST_GOLDEN=write bash launch/test.sh tests/golden

writes them anew; a change that claims no numeric effect leaves them as they are.
"""

import json
import os
from pathlib import Path

import pytest

from tests.ranks.many_runs import run_jobs
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

FOLDER = Path(__file__).parent
CURVES = ("loss", "grad_norm", "learning_rate", "log_loss")
# Relative. Another CPU rounds otherwise; within these a wrong normalisation of 1e-6 cannot hide in fp64.
BOUNDS = {"fp64": 1e-9, "fp32": 2e-5}
SETTINGS = {
    "fp32": {"model": {"pooling": "segments"}, "evaluate": {"every_steps": 10}},
    "fp64": {
        "model": {"weight_dtype": "fp64"},
        "train": {
            "token_budget": 250,
            "clip_norm": 0.5,
            "schedule": "cosine",
            "warmup_fraction": 0.25,
            "head_learning_rate": 1e-4,
            "layer_decay": 0.8,
        },
        "evaluate": {"every_steps": 10},
    },
}


@pytest.fixture(scope="module")
def found(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """Return {precision: {name of a curve: its values}} of runs made now."""
    folder = tmp_path_factory.mktemp("golden")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    written = {name: runs.write(name, **sections) for name, sections in SETTINGS.items()}
    run_jobs("single", 1, [{"config": str(run_yaml)} for run_yaml, _ in written.values()], folder)
    curves = {name: read_curves(run_dir) for name, (_, run_dir) in written.items()}
    if os.environ.get("PREF_DIST_GOLDEN") == "write":
        for name, values in curves.items():
            (FOLDER / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return curves


def read_curves(run_dir: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {name: [line[name] for line in lines if name in line] for name in CURVES}


@pytest.mark.parametrize("precision", SETTINGS)
def test_the_curves_are_the_golden_ones(found, precision):
    golden = json.loads((FOLDER / f"{precision}.json").read_text(encoding="utf-8"))
    assert len(golden["loss"]) == 20
    assert len(golden["log_loss"]) == 2
    for name in CURVES:
        assert found[precision][name] == pytest.approx(golden[name], rel=BOUNDS[precision], abs=0)
