"""AdamW on the rows of a table that a step has touched: what LazyAdam and torch.optim.SparseAdam do, with decay.

Rows without a gradient keep value and moments: these do not fade, and nothing decays. The bias correction counts the
steps of the table, not of the row.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim.adamw import adamw

from pref_dist.models.row_embedding import RowEmbedding


@dataclass(frozen=True)
class TouchedRows:
    """Rows `ids` (N,) of a table, as a parameter (N, H) of their own whose gradient is the whole step's."""

    table: Tensor
    ids: Tensor
    rows: nn.Parameter

    def update(self, optimizer: torch.optim.AdamW, skipped: Tensor) -> None:
        """Update the rows and their moments as the optimiser would update a parameter, and put them back.

        If skipped () is true, nothing changes.
        """
        group = next(group for group in optimizer.param_groups if any(one is self.table for one in group["params"]))
        state: dict[str, Any] = optimizer.state[self.table]
        if len(self.ids) == 0:
            state["step"] += 1.0 - skipped.float()
            return
        assert self.rows.grad is not None
        exp_avg, exp_avg_sq = (state[name].index_select(0, self.ids) for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        with torch.no_grad():
            adamw(
                [self.rows], [self.rows.grad], [exp_avg], [exp_avg_sq], [], [state["step"]], fused=True, amsgrad=False,
                beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False, found_inf=skipped.float(),
            )  # fmt: skip
            self.table.index_copy_(0, self.ids, self.rows)
        state["exp_avg"].index_copy_(0, self.ids, exp_avg)
        state["exp_avg_sq"].index_copy_(0, self.ids, exp_avg_sq)


def collect_rows(table: RowEmbedding, world_size: int) -> TouchedRows:
    """Return the rows that any rank's micro-batches have touched, with the sum of the ranks' gradients; collective."""
    ids, gradients = table.sum_by_row(*table.take_gradient())
    if world_size > 1:
        ids, gradients = table.sum_by_row(*gather_rows(ids, gradients, world_size))
    rows = nn.Parameter(table.weight.detach().index_select(0, ids))
    rows.grad = gradients
    return TouchedRows(table.weight, ids, rows)


def gather_rows(ids: Tensor, gradients: Tensor, world_size: int) -> tuple[Tensor, Tensor]:
    """Return the ids and gradients of all ranks, one rank after another, the same on each."""
    counts = [torch.empty(1, dtype=torch.int64, device=ids.device) for _ in range(world_size)]
    torch.distributed.all_gather(counts, torch.tensor([len(ids)], device=ids.device))
    longest = max(int(count) for count in counts)
    gathered = []
    for own in (ids, gradients):
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in range(world_size)]
        torch.distributed.all_gather(everyone, padded)
        gathered.append(torch.cat([one[: int(count)] for one, count in zip(everyone, counts, strict=True)]))
    return gathered[0], gathered[1]
