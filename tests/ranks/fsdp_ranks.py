"""What one rank does in test_fsdp.py: train a tiny model in float64 by FSDP2 and compare with plain torch.

Writes its figures to OUT/rank_N.json; the test holds the bounds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.ranks.sharing_engine_ranks import largest_difference, read_tensors, take_step
from tests.ranks.tiny_problem import (
    NUM_STEPS,
    build_groups,
    build_model,
    loss_share,
    micro_batches_of,
    plan_step,
    train_plainly,
)

CLIP_NORM = 0.5
ACCUMULATING_STEP = 3  # of five micro-batches


def build(kind: str) -> nn.Module:
    """A classifier in float64.

    tied: two layers share a weight. repeated: one layer is gone through three times. frozen: only the last
    layer's query and the classifier are trained.
    """
    if kind == "repeated":
        from transformers import AlbertConfig, AlbertForSequenceClassification

        torch.manual_seed(0)
        config = AlbertConfig(
            vocab_size=100, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
        )  # fmt: skip
        return AlbertForSequenceClassification(config).double()
    model: Any = build_model(0)
    if kind == "tied":
        first, second = model.bert.encoder.layer
        second.attention.self.query.weight = first.attention.self.query.weight
    if kind == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layer.1.attention.self.query" in name or name.startswith("classifier"))
    return model.double()


def train_beside_plain_torch(engine: Any, parallel: Any, kind: str) -> dict[str, Any]:
    plain = build(kind)
    losses, norms, num_clipped = [], [], 0
    for step, (plain_loss, plain_norm) in enumerate(train_plainly(plain, "fp32", CLIP_NORM)):
        loss, outcome = take_step(engine, parallel, step)
        losses.append(abs(loss - plain_loss))
        norms.append(abs(outcome.grad_norm - plain_norm))
        num_clipped += plain_norm > CLIP_NORM
    return {
        "loss_difference": max(losses),
        "norm_difference": max(norms),
        "parameter_difference": largest_difference(read_tensors(engine), plain),
        "num_clipped": num_clipped,
    }


def watch_exchange(engine: Any, model: nn.Module, parallel: Any) -> list[int]:
    """How many parameters have a gradient that was summed over the ranks, after each micro-batch of a step."""
    mine, found = micro_batches_of(ACCUMULATING_STEP, parallel.rank, parallel.world_size), []
    slices = list(model.parameters())  # between micro-batches the model holds whole weights instead
    for place, batch in enumerate(mine):
        is_last = place == len(mine) - 1
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        engine.backward(loss_share(engine.forward(inputs, is_last), batch, ACCUMULATING_STEP), is_last)
        found.append(sum(parameter.grad is not None for parameter in slices))
    engine.step(0.0)
    return found


def leave_one_out(parallel: Any) -> str:
    """What the engine says of a parameter that takes no part."""
    from pref_dist.errors import TrainingError
    from pref_dist.runtime.engine import EngineSettings

    model = build("plain")
    model.spare = nn.Linear(2, 2).double()
    engine = parallel.build_engine(model, build_groups(model), EngineSettings("fp32", None), 60)
    try:
        take_step(engine, parallel, 0)
    except TrainingError as error:
        return str(error)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["plain", "tied", "repeated", "frozen"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from pref_dist.config.schema import ParallelSection
    from pref_dist.runtime.engine import EngineSettings
    from pref_dist.runtime.parallel import start_parallel

    torch.set_num_threads(1)
    # As torchrun starts it: without a word of Accelerate.
    parallel = start_parallel(ParallelSection(backend="fsdp2", timeout_seconds=60))
    # Rank 0's weights count, as under DDP.
    model = build(arguments.kind)
    if parallel.rank:
        nn.init.normal_(next(model.parameters()))
    engine = parallel.build_engine(model, build_groups(model), EngineSettings("fp32", CLIP_NORM), 60)
    figures = train_beside_plain_torch(engine, parallel, arguments.kind)
    figures |= {"exchanged": watch_exchange(engine, model, parallel), "describe": engine.describe()}
    num_trained = sum(parameter.requires_grad for parameter in model.parameters())
    figures |= {"num_trained": num_trained, "num_steps": NUM_STEPS}
    figures |= {"num_micro_batches": len(plan_step(ACCUMULATING_STEP))}
    if arguments.kind == "plain":
        figures["left_out"] = leave_one_out(parallel)
    (arguments.out / f"rank_{parallel.rank}.json").write_text(json.dumps(figures))
    parallel.stop()


if __name__ == "__main__":
    main()
