"""One optimiser step: this rank's micro-batches forward and backward, then the update on all ranks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pref_dist.config.train_section import TrainSection
from pref_dist.data.batches import Batch
from pref_dist.data.plan import MicroBatch, PlannedStep
from pref_dist.data.table import TokenTable
from pref_dist.losses import cross_entropy, distillation_loss, share_of_step, smooth_targets
from pref_dist.runtime.engine import QueuedStep
from pref_dist.runtime.rng import seed_dropout
from pref_dist.train.assemble import Assembled
from pref_dist.train.feed import FedStep
from pref_dist.train.memory import within_budget
from pref_dist.train.stopping import rate_factor


@dataclass(frozen=True)
class TakenStep:
    """What one rank did in a step: its share () of the loss, its micro-batches and the losses (P,) of their rows.

    Tensors are on the device, which may still be at them: nothing in a step waits for it.

    line_rows: for each micro-batch, the row of each line of tokens, see `Batch`.
    """

    loss_share: Tensor
    queued: QueuedStep
    micro_batches: list[MicroBatch]
    row_losses: list[Tensor]
    line_rows: list[NDArray[np.int64]]


def take_step(run: Assembled, fed: FedStep) -> TakenStep:
    """Run this rank's micro-batches and update."""
    planned, micro_batches = fed.planned, fed.micro_batches
    global_weight = weigh_step(run.train_table, planned)
    loss_share = torch.zeros((), dtype=torch.float64, device=run.parallel.device)
    row_losses, line_rows, whereabouts = [], [], run.parallel.whereabouts
    with within_budget(run, "train.token_budget"):
        for place, (micro_batch, on_host) in enumerate(zip(micro_batches, fed.batches, strict=True)):
            whereabouts.at(f"the forward of micro-batch {place + 1} of {len(micro_batches)}", planned.step)
            batch = on_host.to(run.parallel.device)
            seed_dropout(run.config.run.seed, planned.epoch, planned.index, micro_batch.index)
            is_last = place == len(micro_batches) - 1
            losses = lose(run.engine.forward(batch.inputs, is_last), batch, run.config.train)
            loss = share_of_step(losses, batch.weight, global_weight=global_weight)
            whereabouts.at(f"the backward of micro-batch {place + 1} of {len(micro_batches)}")
            run.engine.backward(loss, is_last)
            loss_share += loss.detach()
            row_losses.append(losses.detach())
            line_rows.append(batch.line_rows)
        whereabouts.at("the update")
        queued = run.engine.step(rate_factor(run, planned.step))
    return TakenStep(loss_share, queued, micro_batches, row_losses, line_rows)


def lose(logits: Tensor, batch: Batch, settings: TrainSection) -> Tensor:
    """Return the loss (P,) of each row as it is shown: against its label, smoothed, and against its teacher."""
    losses = cross_entropy(logits, smooth_targets(batch.target, settings.label_smoothing))
    if settings.distill is None:
        return losses
    assert batch.teacher is not None
    share, temperature = settings.distill.weight, settings.distill.temperature
    return (1.0 - share) * losses + share * distillation_loss(logits, batch.teacher, temperature)


def weigh_step(table: TokenTable, planned: PlannedStep) -> float:
    """Return the sum of the weights of all the step's rows, on whichever rank they are.

    A row that is shown in both orders counts twice here, so that each order has half of its weight in the loss.
    """
    return float(sum(table.weights[micro_batch.rows].sum() for micro_batch in planned.micro_batches))
