"""A run folder that holds all that a report shows, by the contract of metrics.json, with numbers drawn from a seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pref_dist.config.load import load_config, render_config
from pref_dist.evaluate.logits_file import Origin, RowLogits, write_logits
from pref_dist.metrics import probabilities, row_log_losses, score_logits

CLASSES = ("A", "B", "tie")
SCRIPT = "<script>alert(1)</script>"


def write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_full_run(folder: Path, num_rows: int = 400, noise: float = 1.0, train: str = "rows.csv") -> Path:
    """Write the folder and return it. `noise` is what the logits have beyond the truth: more is worse."""
    folder.mkdir(parents=True)
    config = load_config(None, [f"data.train={train}", "train.precision=fp32", f"run.dir={folder}"])
    (folder / "config.yaml").write_text(render_config(config), encoding="utf-8")
    write_json(folder / "state.json", {"state": "finished", "step": 60, "reason": ""})
    write_json(folder / "best.json", {"step": 60, "log_loss": 0.83, "accuracy": 0.62, "num_rows": num_rows})
    write_lines(folder / "metrics.jsonl", list(iterate_lines(noise)))
    logits, targets = draw_logits(num_rows, noise)
    write_logits(folder / "valid_logits.parquet", name_rows(logits, targets))
    metrics = build_metrics(logits, targets)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "worst_rows.json", list_worst(logits, targets))
    write_json(folder / "calibration.json", {
        "temperature": 1.21, "applies": True, "interval": [0.001, 0.009], "gain": 0.005, "step": 60, "swap": "none",
        "num_rows": num_rows,
    })  # fmt: skip
    finding = {"source": "rows.csv", "kind": "identical_responses", "num_rows": 17, "policy": "keep",
               "first": [{"file": "rows.csv", "row": 12}, {"file": "rows.csv", "row": 40}]}  # fmt: skip
    write_json(folder / "findings.json", [finding])
    write_json(folder / "truncation.json", {"train": {"num_rows": 4000, "rows_cut": 12, "share_of_rows_cut": 0.003}})
    set_aside = {"file": "rows.csv", "row": 4, "id": "x", "kind": "bad_json", "detail": "cell holds {"}
    write_lines(folder / "rows_set_aside.jsonl", [set_aside])
    return folder


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


def build_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    chances, losses, classes = probabilities(logits), row_log_losses(logits, targets), targets.argmax(axis=1)
    loss, guesses = float(losses.mean()), logits.argmax(axis=1)
    accuracy = float((guesses == classes).mean())
    confusion = [[int(((classes == real) & (guesses == guess)).sum()) for guess in range(3)] for real in range(3)]
    return {
        **score_logits(logits, targets), "step": 60, "num_set_aside": 1, "num_prompts": len(logits) // 2,
        "macro_f1": accuracy - 0.0123, "brier": 0.4412345, "ece": 0.0312345, "auc": 0.7812345,
        "intervals": {"log_loss": [loss - 0.05, loss + 0.05], "accuracy": [accuracy - 0.04, accuracy + 0.04],
                      "macro_f1": [accuracy - 0.05, accuracy + 0.03], "brier": [0.41, 0.47], "ece": [0.02, 0.05],
                      "auc": None},
        "classes": {name: {"num_rows": sum(confusion[place]), "share": sum(confusion[place]) / len(logits),
                           "mean_probability": float(chances[:, place].mean()), "log_loss": 0.9 + place / 7,
                           "precision": 0.61 + place / 70, "recall": 0.6, "f1": 0.62, "auc": 0.8, "brier": 0.2}
                    for place, name in enumerate(CLASSES)},
        "confusion": confusion,
        "slices": [{"by": by, "slice": name, "num_rows": count, "num_prompts": count // 2, "log_loss": loss + shift,
                    "accuracy": accuracy - shift, "interval": [loss + shift - 3 / count, loss + shift + 3 / count]}
                   for by, name, count, shift in list_slices()],
        "verbosity": [{"low": low, "high": high, "num_rows": 80, "predicted": 0.5 + shift, "real": 0.5 + 1.4 * shift}
                      for low, high, shift in [(None, -800, -0.2), (-800, -120, -0.08), (-120, 90, 0.0), (90, 990, 0.1),
                                               (990, None, 0.22)]],
        "baselines": {"class_prior": {"log_loss": 1.0912, "accuracy": 0.36, "num_rows": 400, "interval": [1.08, 1.1]},
                      "length_tree": {"log_loss": 1.0434, "accuracy": 0.45, "num_rows": 400, "interval": [1.0, 1.1]}},
        "gate": {"passed": True, "nearest": "length_tree", "gain": 1.0434 - loss, "interval": [0.1, 0.2],
                 "is_prior": False,
                 "sentence": "The model beats every baseline; the nearest, length tree, is sure to be behind."},
        "references": {"bayes": {"log_loss": 0.79, "accuracy": 0.64, "num_rows": len(logits)}},
        "calibration": {"temperature": 1.2134, "log_loss_before": loss, "log_loss_after": loss - 0.0051, "gain": 0.0051,
                        "interval": [0.0011, 0.0092], "applies": True,
                        "reliability": {name: list_bins(chances[:, place], targets[:, place])
                                        for place, name in enumerate(CLASSES)}},
        "orders": {"mode": "full", "num_rows_both": len(logits), "share": 1.0, "log_loss_ab": loss + 0.011,
                   "log_loss_ba": loss + 0.013, "log_loss_mean": loss, "gain": 0.0112, "gain_interval": [0.004, 0.019],
                   "consistency": 0.9034, "mean_difference": 0.0712,
                   "curve": [{"share": share / 10, "log_loss": loss + 0.011 * (1 - share / 10) ** 2}
                             for share in range(11)]},
        "timing": {"seconds": 12.5, "first_seconds": 6.0, "second_seconds": 6.5, "rows_per_second": 32.0},
    }  # fmt: skip


def list_slices() -> list[tuple[str, str, int, float]]:
    return [("length", "shortest quarter", 100, -0.05), ("length", "longest quarter", 100, 0.06),
            ("turns", "1", 390, 0.0), ("turns", "2 or more", 10, 0.21),
            ("label", "tie", 120, 0.12), ("label", "no tie", 280, -0.05)]  # fmt: skip


def list_bins(chances: np.ndarray, target: np.ndarray, num_bins: int = 8) -> list[dict[str, float]]:
    bins = []
    for rows in np.array_split(np.argsort(chances, kind="stable"), num_bins):
        share, reach = float(target[rows].mean()), 1.96 * float(np.sqrt(0.25 / len(rows)))
        bins.append({"mean_probability": float(chances[rows].mean()), "share": share, "num_rows": len(rows),
                     "low": max(0.0, share - reach), "high": min(1.0, share + reach)})  # fmt: skip
    return bins


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
