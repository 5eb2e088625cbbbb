"""A table of embeddings whose gradient is kept for no more than the rows that stand in a step.

A table of 128,100 rows has a dense gradient that is filled in every micro-batch and measured, clipped and averaged in
every step, though a step of eight rows of text holds a few thousand tokens. Here a forward takes its rows out as a
small leaf of their own. The update is of these rows alone (model.embeddings=sparse), or AdamW's of the whole table.

Suffixes: R rows of text, T tokens, H hidden, N different tokens.
"""

from contextlib import suppress
from typing import TypeGuard

import torch
from torch import Tensor, nn

from pref_dist.config.schema import Backend
from pref_dist.config.train_section import Precision
from pref_dist.errors import ConfigError

ROW_BACKENDS: tuple[Backend, ...] = ("single", "ddp")


class RowEmbedding(nn.Embedding):
    """An nn.Embedding whose weight autograd does not know; `take_gradient` gives what it would have got, by rows.

    Only what goes forward in training mode gets a gradient. is_updated_whole: rows without a gradient get the update
    of a gradient of zero; else none. spread_gradient: then the dense gradient, zeros between the steps; made as early
    as autograd would make one, so that a first micro-batch shows the memory.
    """

    def __init__(self, table: nn.Embedding, is_updated_whole: bool) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, _weight=table.weight.detach())
        self.is_updated_whole = is_updated_whole
        self.weight.requires_grad_(False)
        self.spread_gradient: Tensor | None = None
        self._ids: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def forward(self, input_ids_RT: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input_ids_RT)
        if self.is_updated_whole and self.spread_gradient is None:
            self.spread_gradient = torch.zeros_like(self.weight)
        ids_N, places_RT = torch.unique(input_ids_RT, return_inverse=True)
        rows_NH = self.weight.detach().index_select(0, ids_N).requires_grad_()
        # torch has no types for it
        rows_NH.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda rows: self._keep_gradient(ids_N, rows)
        )
        return nn.functional.embedding(places_RT, rows_NH)

    def _keep_gradient(self, ids_N: Tensor, rows_NH: Tensor) -> None:
        """Add a backward's gradient, so that a step takes no more memory than the table has rows."""
        assert rows_NH.grad is not None
        gradient_NH, rows_NH.grad = rows_NH.grad, None
        self._ids.append(ids_N)
        if self.spread_gradient is not None:
            self.spread_gradient.index_add_(0, ids_N, gradient_NH)
            return
        self._gradients.append(gradient_NH)
        if sum(map(len, self._ids)) > self.num_embeddings:
            ids_N, gradient_NH = self.sum_by_row(*self.take_gradient())
            self._ids, self._gradients = [ids_N], [gradient_NH]

    def take_gradient(self) -> tuple[Tensor, Tensor]:
        """Return the ids (N,) and gradients (N, H) of all backwards since the last call; an id may be there twice."""
        ids = torch.cat([self.weight.new_empty(0, dtype=torch.int64), *self._ids])
        if self.spread_gradient is not None:
            ids = torch.unique(ids)
            gradients = self.spread_gradient.index_select(0, ids)
            self.spread_gradient.index_fill_(0, ids, 0.0)
        else:
            gradients = torch.cat([self.weight.new_empty(0, self.embedding_dim), *self._gradients])
        self._ids, self._gradients = [], []
        return ids, gradients

    def sum_by_row(self, ids: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids (N,), ascending, each once, and their summed gradients (N, H), where these are not all zero.

        Zero are those of tokens that stand only in padding or in a micro-batch of weight 0, which are there on some
        numbers of ranks alone: they belong to no step. The row for padding has none, as in nn.Embedding.
        """
        ids_N, places = torch.unique(ids, return_inverse=True)
        sums_NH = gradients.new_zeros(len(ids_N), self.embedding_dim).index_add_(0, places, gradients)
        is_used_N = (sums_NH != 0).any(dim=1)
        if self.padding_idx is not None:
            is_used_N &= ids_N != self.padding_idx
        return ids_N[is_used_N], sums_NH[is_used_N]


def train_by_rows(module: nn.Module, table: nn.Module) -> None:
    """Let training update no rows of a model's table but those of a step; ConfigError if it is no plain table."""
    if not has_plain_rows(table):
        raise ConfigError(
            f"model.embeddings=sparse takes a plain table of embeddings, and this model's is a {type(table).__name__}. "
            "Set it to trained or frozen."
        )
    replace_table(module, table, is_updated_whole=False)


def collect_gradient_by_rows(module: nn.Module) -> None:
    """Let a trained table's gradient be kept by rows, if it can be; the update stays AdamW's of the whole table."""
    table: nn.Module | None = None
    with suppress(NotImplementedError):  # of models without one table
        table = module.get_input_embeddings()  # type: ignore[operator]  # transformers' method, which ours have, too
    if table is None or not has_plain_rows(table) or not table.weight.requires_grad:
        return
    owners = sum(value is table.weight for part in module.modules() for value in part._parameters.values())
    if owners == 1:  # another owner's gradient would be lost
        replace_table(module, table, is_updated_whole=True)


def has_plain_rows(table: nn.Module) -> TypeGuard[nn.Embedding]:
    return type(table) is nn.Embedding and table.max_norm is None and not table.scale_grad_by_freq


def replace_table(module: nn.Module, table: nn.Embedding, is_updated_whole: bool) -> None:
    by_rows = RowEmbedding(table, is_updated_whole).train(table.training)
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if part is table:
                parent.add_module(name, by_rows)


def list_row_tables(module: nn.Module) -> list[RowEmbedding]:
    return [part for part in module.modules() if isinstance(part, RowEmbedding)]


def takes_row_gradients(precision: Precision, backend: Backend) -> bool:
    """Whether the engine knows gradients by rows, and nothing in it looks at whole ones alone."""
    return backend in ROW_BACKENDS and precision != "fp16"


def check_row_updates(embeddings: str, precision: Precision, backend: Backend) -> None:
    """Raise ConfigError where a table cannot be updated by rows."""
    if embeddings != "sparse" or takes_row_gradients(precision, backend):
        return
    if backend not in ROW_BACKENDS:
        raise ConfigError(
            f"model.embeddings=sparse runs on parallel.backend={' and '.join(ROW_BACKENDS)}, not on {backend}, whose "
            "own optimiser updates whole tensors. Set model.embeddings=trained, or use ddp."
        )
    raise ConfigError(
        "model.embeddings=sparse with train.precision=fp16: the loss scale watches over whole gradients alone. "
        "Set train.precision to fp32 or bf16, or model.embeddings=trained."
    )
