"""One trained run of each kind of model, and its logits of test.csv by evaluation's own path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.evaluate.restore import read_model_config, restore_run
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import start_parallel
from tests.ranks.many_runs import run_jobs
from tests.tiny_llm import write_tiny_llm
from tests.tiny_runs import TinyRuns

LORA = {"kind": "decoder", "lora": {"rank": 4, "modules": ["q_proj", "v_proj"]}}
# Sections of the run config; `name: llama` is a decoder.
KINDS: dict[str, dict[str, Mapping[str, Any]]] = {
    "cls": {},
    "seed_joint": {"data": {"template": "seed_joint", "truncation": "right", "clean": "seed_ascii"}},
    "mean": {"model": {"pooling": "mean"}},
    "last": {"model": {"pooling": "last", "weight_dtype": "fp64"}},
    "segments": {"model": {"pooling": "segments", "head": "two_layer"}},
    "surface": {"model": {"surface_features": True}, "data": {"max_tokens": 48}},
    "two_layer": {"model": {"head": "two_layer", "head_dropout": 0.1}, "data": {"truncation": "last_rounds"}},
    "concat": {"model": {"kind": "siamese", "head": "concat"}, "data": {"template": "seed_siamese"}},
    "difference": {"model": {"kind": "siamese", "head": "difference"}},
    "antisymmetric": {"model": {"kind": "siamese", "surface_features": True}, "data": {"max_tokens": 64}},
    "decoder": {"model": {"kind": "decoder", "name": "llama"}},
    "lora": {"model": {**LORA, "name": "llama"}},
}
SETTINGS = {"max_steps": 3, "learning_rate": 5e-3, "rows_per_step": 16, "token_budget": 2000}


def train_kinds(folder: Path, sample_dir: Path, tiny_model: Path, cache_dir: Path) -> dict[str, Path]:
    """Train them in one process; return {kind: run folder}."""
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    llama = write_tiny_llm(folder / "llama_model", sample_dir / "train.csv", "llama")
    jobs, run_dirs = [], {}
    for kind, sections in KINDS.items():
        model = dict(sections.get("model", {}))
        if model.get("name") == "llama":
            model["name"] = str(llama)
        data = {"max_tokens": 128, **sections.get("data", {})}
        run_yaml, run_dirs[kind] = runs.write(kind, train=SETTINGS, data=data, model=model)
        jobs.append({"config": str(run_yaml)})
    run_jobs("single", 1, jobs, folder)
    return run_dirs


def infer_file(folder: Path, path: Path) -> NDArray[np.float32 | np.float64]:
    """Return the logits of a file's rows as `predict` computes them, by a run or an exported model."""
    config = read_model_config(RunDir(folder), ())
    run = restore_run(config, RunDir(folder), None, start_parallel(config.parallel))
    table = run.open_rows(path, with_labels=False)
    return run.infer(table, np.arange(len(table), dtype=np.int64)).logits
