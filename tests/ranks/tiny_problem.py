"""A tiny classifier and a plan of uneven micro-batches, for the tests that compare engines with plain torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

NUM_STEPS = 20


@dataclass(frozen=True)
class MicroBatch:
    input_ids: Tensor  # (R, T)
    attention_mask: Tensor  # (R, T)
    target: Tensor  # (R,)
    weight: Tensor  # (R,)

    def empty(self) -> "MicroBatch":
        return replace(self, weight=torch.zeros_like(self.weight))


def build_model(seed: int, dropout: float = 0.0) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config)


def build_groups(model: nn.Module) -> list[dict[str, Any]]:
    from pref_dist.optim import OptimizerSettings, build_parameter_groups

    heads = [name for name, _ in model.named_parameters() if name.startswith("classifier")]
    return build_parameter_groups(model, heads, OptimizerSettings(2e-5, 4e-5, 0.01))


def plan_step(step: int) -> list[MicroBatch]:
    """Micro-batches of uneven size; their number differs from step to step and need not suit the ranks."""
    generator = torch.Generator().manual_seed(1000 + step)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    micro_batches = []
    for _ in range(2 + step % 4):
        num_rows, num_tokens = int(draw(1, 6)), int(draw(4, 24))
        mask = (torch.arange(num_tokens) < draw(3, num_tokens + 1, num_rows, 1)).long()
        weight = draw(1, 3, num_rows).float() / 2
        micro_batches.append(
            MicroBatch(draw(0, 100, num_rows, num_tokens), mask, draw(0, 3, num_rows), weight),
        )
    return micro_batches


def micro_batches_of(step: int, rank: int, world_size: int) -> list[MicroBatch]:
    planned = plan_step(step)
    rounds = math.ceil(len(planned) / world_size)
    filled = planned + [planned[0].empty()] * (rounds * world_size - len(planned))
    return filled[rank::world_size]


def loss_share(logits: Tensor, batch: MicroBatch, step: int) -> Tensor:
    global_weight = sum(float(planned.weight.sum()) for planned in plan_step(step))
    rows = nn.functional.cross_entropy(logits, batch.target, reduction="none")
    return (rows * batch.weight).sum() / global_weight


def factor_of(step: int) -> float:
    return 1.0 - step / (2 * NUM_STEPS)


def train_plainly(model: nn.Module, precision: str, clip_norm: float | None) -> Iterator[tuple[float, float]]:
    """One process, plain torch: the reference. Yields loss and gradient norm of each step."""
    from pref_dist.runtime.precision import autocast_to

    optimizer = torch.optim.AdamW(build_groups(model), betas=(0.9, 0.999), eps=1e-8, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(NUM_STEPS):
        total = 0.0
        for batch in plan_step(step):
            with autocast_to(precision, torch.device("cpu")):
                logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            loss = loss_share(logits if logits.dtype == torch.float64 else logits.float(), batch, step)
            loss.backward()
            total += loss.item()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor_of(step)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        yield total, float(norm)
