"""A step's gradient of the rows of a table that it has touched, and the update by it.

Of the whole table, as AdamW does; or (model.embeddings=sparse) of the touched rows alone, which is what LazyAdam and
torch.optim.SparseAdam do, with decay: rows without a gradient keep value and moments, these do not fade, and nothing
decays. The bias correction counts the steps of the table, not of the row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    embedding: RowEmbedding
    ids: Tensor
    rows: nn.Parameter

    @property
    def table(self) -> Tensor:
        return self.embedding.weight

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


@contextmanager
def spread_over_tables(touched: Sequence[TouchedRows]) -> Iterator[None]:
    """Give tables that are updated whole their dense gradients meanwhile."""
    spread = [one for one in touched if one.embedding.is_updated_whole]
    for one in spread:
        assert one.rows.grad is not None
        assert one.embedding.spread_gradient is not None, "its forward has made it"
        one.table.grad = one.embedding.spread_gradient.index_copy_(0, one.ids, one.rows.grad)
    yield
    for one in spread:
        assert one.table.grad is not None
        one.table.grad.index_fill_(0, one.ids, 0.0)
        one.table.grad = None


def collect_rows(table: RowEmbedding, world_size: int) -> TouchedRows:
    """Return the rows that any rank's micro-batches have touched, with the sum of the ranks' gradients; collective."""
    ids, gradients = table.sum_by_row(*table.take_gradient())
    if world_size > 1:
        ids, gradients = table.sum_by_row(*gather_rows(ids, gradients, world_size))
    rows = nn.Parameter(table.weight.detach().index_select(0, ids))
    rows.grad = gradients
    return TouchedRows(table, ids, rows)


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
