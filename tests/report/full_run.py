"""A run folder that holds all that a report shows, by the contract of metrics.json, with numbers drawn from a seed."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pref_dist.config.load import load_config, render_config
from pref_dist.evaluate.calibrate import calibrate
from pref_dist.evaluate.logits_file import Origin, RowLogits, write_logits
from pref_dist.evaluate.order_bias import compare_orders
from pref_dist.evaluate.scores import describe_scores
from pref_dist.evaluate.slices import RowFacts, score_slices
from pref_dist.evaluate.verbosity import measure_verbosity
from pref_dist.metrics import probabilities, row_log_losses

SCRIPT = "<script>alert(1)</script>"


def write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_full_run(folder: Path, num_rows: int = 400, noise: float = 1.0, train: str = "rows.csv") -> Path:
    """Write the folder and return it. `noise` is what the logits have beyond the truth: more is worse."""
    folder.mkdir(parents=True)
    config = load_config(None, [f"data.train={train}", "train.precision=fp32", f"run.dir={folder}"])
    (folder / "config.yaml").write_text(render_config(config), encoding="utf-8")
    write_json(folder / "state.json", {"state": "finished", "step": 60, "reason": ""})
    write_json(folder / "starts.json", list_full_starts())
    write_json(folder / "best.json", {"step": 60, "log_loss": 0.83, "accuracy": 0.62, "num_rows": num_rows})
    write_lines(folder / "metrics.jsonl", list(iterate_lines(noise)))
    logits, targets = draw_logits(num_rows, noise)
    write_logits(folder / "valid_logits.parquet", name_rows(logits, targets))
    write_json(folder / "metrics.json", score_full_run(num_rows, noise))
    write_json(folder / "worst_rows.json", list_worst(logits, targets))
    write_json(folder / "calibration.json", {
        "temperature": 1.21, "applies": True, "interval": [0.001, 0.009], "gain": 0.005, "step": 60, "orders": "none",
        "num_rows": num_rows, "num_learnt": 0,
    })  # fmt: skip
    finding = {"source": "rows.csv", "kind": "identical_responses", "num_rows": 17, "policy": "keep",
               "first": [{"file": "rows.csv", "row": 12}, {"file": "rows.csv", "row": 40}]}  # fmt: skip
    write_json(folder / "findings.json", [finding])
    write_json(folder / "truncation.json", {"train": {"num_rows": 4000, "rows_cut": 12, "share_of_rows_cut": 0.003}})
    set_aside = {"file": "rows.csv", "row": 4, "id": "x", "kind": "bad_json", "detail": "cell holds {"}
    write_lines(folder / "rows_set_aside.jsonl", [set_aside])
    return folder


def list_full_starts() -> list[dict[str, Any]]:
    """Return three starts: one that was asked to stop, one that was killed, and the last, on other machines."""
    first = {"started": "2026-05-01T20:00:00+00:00", "from_step": 0, "host": "laptop", "backend": "single", "ranks": 1,
             "ranks_on_host": 1, "device": "cpu", "rows": {"train": 1720, "valid": 163},
             "software": {"python": "3.11.1"}, "ended": "2026-05-01T20:00:30+00:00", "state": "stopped", "step": 12,
             "reason": "signal SIGINT"}  # fmt: skip
    later = {"host": "node7", "backend": "zero2", "ranks": 16, "ranks_on_host": 8, "device": "NVIDIA H100"}
    killed = {"started": "2026-05-01T21:00:00+00:00", "from_step": 12, "ended": None, "state": None, "step": None}
    last = {"started": "2026-05-02T07:59:00+02:00", "from_step": 12, "ended": "2026-05-02T06:00:00+00:00",
            "state": "finished", "step": 60, "reason": "",
            "software": {"python": "3.12.9", "torch": "2.13.0"}}  # fmt: skip
    return [first, first | later | killed, first | later | last]


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def iterate_lines(noise: float, num_steps: int = 60):
    generator = np.random.default_rng(1)
    for step in range(1, num_steps + 1):
        loss = 0.6 + 0.1 * noise + 0.5 * np.exp(-step / 15)
        yield {"step": step, "epoch": 0, "loss": loss + 0.05 * generator.normal(),
               "grad_norm": 1.0 + generator.random(),
               "learning_rate": 2e-4 * (1 - step / num_steps), "rows": 32, "tokens": 2100, "padding": 0.08,
               "micro_batches": 4, "seconds": 0.5 * noise}  # fmt: skip
        if step % 15 == 0:
            yield {"step": step, "log_loss": loss + 0.02, "accuracy": 0.7 - loss / 10, "num_rows": 400, "seconds": 2.0,
                   "rows_per_second": 200.0, "micro_batches": 25}  # fmt: skip


def draw_logits(num_rows: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets are the same whatever the noise."""
    generator = np.random.default_rng(7)
    true = generator.normal(0.0, 1.2, (num_rows, 3))
    draws = generator.random(num_rows)
    target = np.eye(3)[(draws[:, None] > probabilities(true).cumsum(axis=1)).sum(axis=1)]
    return true + noise * generator.normal(0.0, 0.5, true.shape), target


def name_rows(logits: np.ndarray, targets: np.ndarray) -> RowLogits:
    numbers = np.arange(len(logits), dtype=np.uint64)
    origin = Origin(numbers // 2, numbers + 1000, numbers % 3 == 0, np.ones(len(logits), np.bool_))
    return RowLogits([f"row{number}" for number in numbers], logits, targets, origin, notes={"step": "60"})


@cache
def score_full_run(num_rows: int, noise: float) -> dict[str, Any]:
    """Return metrics.json, by the functions that make it up."""
    logits, targets = draw_logits(num_rows, noise)
    generator, groups = np.random.default_rng(5), np.arange(num_rows, dtype=np.uint64) // 2
    second = logits + 0.3 * generator.normal(size=logits.shape)
    facts = RowFacts(
        characters=generator.integers(20, 3000, (num_rows, 3)),
        num_turns=generator.integers(1, 4, num_rows),
        is_cut=generator.random(num_rows) < 0.2,
        has_empty_response=generator.random(num_rows) < 0.02,
        has_equal_responses=np.zeros(num_rows, np.bool_),
    )
    scores = describe_scores(logits, targets, groups)
    loss = scores["log_loss"]
    return {
        **scores, "step": 60, "num_set_aside": 1,
        "slices": score_slices(facts, logits, targets, groups),
        "verbosity": measure_verbosity(facts, probabilities(logits), targets),
        "baselines": {"class_prior": {"log_loss": 1.0912, "accuracy": 0.36, "num_rows": 400, "interval": [1.08, 1.1]},
                      "length_tree": {"log_loss": 1.0434, "accuracy": 0.45, "num_rows": 400, "interval": [1.0, 1.1]}},
        "gate": {"passed": True, "nearest": "length_tree", "gain": 1.0434 - loss, "interval": [0.1, 0.2],
                 "is_prior": False,
                 "sentence": "The model beats every baseline; the nearest, length tree, is sure to be behind."},
        "references": {"bayes": {"log_loss": 0.79, "accuracy": 0.64, "num_rows": num_rows}},
        "calibration": calibrate(logits, targets, groups),
        "orders": {"mode": "full", **compare_orders(logits, second, targets, groups)},
        "timing": {"seconds": 12.5, "first_seconds": 6.0, "second_seconds": 6.5, "rows_per_second": 32.0},
    }  # fmt: skip


def list_worst(logits: np.ndarray, targets: np.ndarray, num_rows: int = 6) -> list[dict[str, Any]]:
    losses, chances = row_log_losses(logits, targets), probabilities(logits)
    return [
        {"row_id": f"row{row}", "file": "rows.csv", "row": int(row), "loss": float(losses[row]),
         "target": targets[row].tolist(), "probabilities": chances[row].tolist(), "is_cut": row % 2 == 0,
         "turns": [{"prompt": f"{SCRIPT} What is {row}?", "response_a": "It is\n\n  " + "W" * 300, "response_b": ""},
                   {"prompt": "And then?", "response_a": "مرحبا " * 9, "response_b": "</pre><b>x</b>" * 400}],
         "models": ["model-one", "model-two"]}
        for row in (int(place) for place in np.argsort(-losses)[:num_rows])
    ]  # fmt: skip
