"""One optimiser step: this rank's micro-batches forward and backward, then the update on all ranks."""

from dataclasses import dataclass

from torch import Tensor

from pref_dist.data.batches import build_batch
from pref_dist.data.plan import MicroBatch, PlannedStep
from pref_dist.data.table import TokenTable
from pref_dist.losses import cross_entropy, share_of_step
from pref_dist.runtime.engine import StepOutcome
from pref_dist.runtime.rng import seed_dropout
from pref_dist.train.assemble import Assembled
from pref_dist.train.memory import within_budget
from pref_dist.train.stopping import rate_factor


@dataclass(frozen=True)
class TakenStep:
    """What one rank did in a step: its share of the loss, its micro-batches and the losses (R,) of their rows."""

    loss_share: float
    outcome: StepOutcome
    micro_batches: list[MicroBatch]
    row_losses: list[Tensor]


def take_step(run: Assembled, planned: PlannedStep) -> TakenStep:
    """Run this rank's micro-batches and update."""
    micro_batches = planned.for_rank(run.parallel.rank, run.parallel.world_size)
    global_weight = weigh_step(run.train_table, planned)
    loss_share, row_losses, whereabouts = 0.0, [], run.parallel.whereabouts
    with within_budget(run, "train.token_budget"):
        for place, micro_batch in enumerate(micro_batches):
            whereabouts.at(f"the forward of micro-batch {place + 1} of {len(micro_batches)}", planned.step)
            batch = build_batch(run.train_table, micro_batch, run.layout).to(run.parallel.device)
            seed_dropout(run.config.run.seed, planned.epoch, planned.index, micro_batch.index)
            is_last = place == len(micro_batches) - 1
            losses = cross_entropy(run.engine.forward(batch.inputs, is_last), batch.target)
            loss = share_of_step(losses, batch.weight, global_weight=global_weight)
            whereabouts.at(f"the backward of micro-batch {place + 1} of {len(micro_batches)}")
            run.engine.backward(loss, is_last)
            loss_share += float(loss.detach())
            row_losses.append(losses.detach())
        whereabouts.at("the update")
        return TakenStep(loss_share, run.engine.step(rate_factor(run, planned.step)), micro_batches, row_losses)


def weigh_step(table: TokenTable, planned: PlannedStep) -> float:
    """Return the sum of the weights of all the step's rows, on whichever rank they are."""
    return float(sum(table.weights[micro_batch.rows].sum() for micro_batch in planned.micro_batches))
