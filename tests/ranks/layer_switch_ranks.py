"""What one rank does in test_layer_switches.py: train a tiny BERT with a switch on and off, under one back-end.

Writes its figures to OUT/rank_N.json; the test holds the bounds.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pref_dist.data.layout import BatchLayout
from pref_dist.evaluate.infer import InferenceTask, infer_logits
from pref_dist.models.compiling import compile_layers
from pref_dist.models.recompute import recompute_activations
from pref_dist.runtime.rng import seed_dropout
from tests.ranks.sharing_engine_ranks import Session, differing, read_tensors
from tests.ranks.tiny_problem import build_groups, build_model, factor_of, loss_share, micro_batches_of

NUM_STEPS = 4
SWITCHES = {"plain": (), "recompute": (recompute_activations,), "compile": (compile_layers,),
            "both": (recompute_activations, compile_layers)}  # fmt: skip


def build(session: Session, switch: str) -> tuple[Any, nn.Module]:
    from pref_dist.runtime.engine import EngineSettings

    model = build_model(0, dropout=0.1)
    for turn_on in SWITCHES[switch]:
        turn_on(model)
    return session.parallel.build_engine(model, build_groups(model), EngineSettings(session.precision, 0.5), 60), model


def train(session: Session, switch: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train with dropout; count how often a part of the first layer computes."""
    engine, model = build(session, switch)
    calls: Counter[str] = Counter()
    if switch in ("plain", "recompute"):
        query = model.get_submodule("bert.encoder.layer.0.attention.self.query")
        query.register_forward_hook(lambda *_: calls.update(["query"]))
    engine.train()
    losses, seconds = [], []
    for step in range(NUM_STEPS):
        start = time.monotonic()
        total, mine = 0.0, micro_batches_of(step, session.parallel.rank, session.parallel.world_size)
        for index, batch in enumerate(mine):
            seed_dropout(1, 0, step, index)
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            is_last = index == len(mine) - 1
            loss = loss_share(engine.forward(inputs, is_last), batch, step)
            engine.backward(loss, is_last)
            total += loss.item()
        engine.step(factor_of(step))
        losses.append(session.parallel.sum(total)[0])
        seconds.append(time.monotonic() - start)
    return {"losses": losses, "calls": calls["query"], "seconds": seconds}, read_tensors(engine)


class Rows:
    """Six rows of a token table, of 3 to 8 tokens."""

    row_numbers = np.arange(6)
    lengths = np.arange(3, 9)
    training_targets = np.full((6, 3), 1 / 3)
    weights = np.ones(6)
    segment_ends = np.zeros((6, 3), dtype=np.int32)

    def input_ids(self, row: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.arange(row, row + self.lengths[row], dtype=np.int32)


def evaluate(session: Session) -> dict[str, Any]:
    """Evaluate a model whose layers are compiled for training, and one without."""
    rows, logits = Rows(), []
    task = InferenceTask(rows, rows.row_numbers, rows.lengths, BatchLayout(0), token_budget=20)
    before = count_compiled()
    for switch in ("plain", "compile"):
        engine, _ = build(session, switch)
        engine.eval()
        logits.append(infer_logits(task, engine.forward, session.parallel))
    return {"num_graphs": count_compiled() - before, "difference": float(np.abs(logits[0] - logits[1]).max())}


def count_compiled() -> int:
    """How many graphs of this process were compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # A compilation may take another rank a minute longer.
    session = Session(arguments.backend, arguments.precision, arguments.out, timeout_seconds=280)
    figures: dict[str, Any] = {}
    figures["plain"], plain = train(session, "plain")
    for switch in arguments.switches:
        before = count_compiled()
        figures[switch], found = train(session, switch)
        figures[switch] |= {
            "differing": differing(plain, found),
            "parameter_difference": max(
                float((plain[name] - found[name]).abs().max()) for name in plain if name.endswith("/value")
            ),
            "num_graphs": count_compiled() - before,
        }
    if "compile" in arguments.switches:
        figures["evaluation"] = evaluate(session)
    (arguments.out / f"rank_{session.parallel.rank}.json").write_text(json.dumps(figures))
    session.parallel.stop()


if __name__ == "__main__":
    main()
