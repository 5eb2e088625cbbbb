"""transformers' DeBERTa-v2 encoder and self-attention with other forwards: same parameters, same results."""

from contextvars import ContextVar
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention

from pref_dist.errors import ModelError
from pref_dist.models.deberta.attention import attend, cast_to_matmul
from pref_dist.models.deberta.distances import Distances, find_distances
from pref_dist.models.deberta.dropout import round_probability
from pref_dist.models.deberta.gpu import FusedRows, attend_fused, has_kernels, round_up
from pref_dist.models.deberta.rows import AttentionRows, find_fused, find_packed, find_padded
from pref_dist.models.packed_rows import PackedRows

# Of each thread, since several may ask one model at a time: the encoder that is called, and its rows.
PACKED_ROWS: ContextVar[tuple["ref[FastEncoder]", PackedRows] | None] = ContextVar("packed_rows", default=None)


class FastEncoder(DebertaV2Encoder):  # type: ignore[misc]  # transformers' classes have no types
    """Tells its layers where rows and distances are, instead of giving them a mask and a place for each pair of tokens.

    packed_rows: how the one sequence of this thread's next forward divides into rows; None: rows are padded.
    """

    @property
    def packed_rows(self) -> PackedRows | None:
        found = PACKED_ROWS.get()
        return found[1] if found is not None and found[0]() is self else None

    @packed_rows.setter
    def packed_rows(self, packed_rows: PackedRows | None) -> None:
        PACKED_ROWS.set(None if packed_rows is None else (ref(self), packed_rows))

    def get_attention_mask(self, attention_mask: Tensor) -> AttentionRows:
        """Return what the layers take as their attention_mask."""
        if self.packed_rows is None:
            is_fused = self._has_kernels() and attention_mask.dim() == 2
            return find_fused(attention_mask, None) if is_fused else find_padded(attention_mask)
        if self.conv is not None:
            raise ModelError(
                "rows without padding do not go through a DeBERTa with a convolution (conv_kernel_size "
                f"{self.conv.conv.kernel_size[0]}): it would mix neighbouring rows. Give it padded rows."
            )
        assert attention_mask.shape == (1, len(self.packed_rows.places))
        return find_fused(attention_mask, self.packed_rows) if self._has_kernels() else find_packed(self.packed_rows)

    def get_rel_pos(
        self, hidden_states: Tensor, query_states: Tensor | None = None, relative_pos: Tensor | None = None
    ) -> Distances | None:
        """Return what the layers take as their relative_pos."""
        if relative_pos is not None:
            raise ModelError("fast attention finds relative positions itself. Leave relative_pos out.")
        if not self.relative_attention:
            return None
        longest = hidden_states.size(-2) if self.packed_rows is None else self.packed_rows.longest
        if self._has_kernels():
            longest = round_up(longest)  # `attend` takes the middle of what is too long
        return find_distances(longest, self.position_buckets, self.max_relative_positions, hidden_states.device)

    def _has_kernels(self) -> bool:
        weight = next(self.parameters())
        return has_kernels(weight.device, weight.dtype)


class FastDisentangledSelfAttention(DisentangledSelfAttention):  # type: ignore[misc]  # as above
    """Disentangled attention (He et al., 2021, https://arxiv.org/abs/2006.03654) without a gather over the scores."""

    # Lengths of rows differ from batch to batch: compiled, this would be compiled for each of them.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: AttentionRows,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Distances | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Return the context (R, T, hidden) of the hidden states (R, T, hidden)."""
        if output_attentions:
            raise ModelError(
                "fast attention does not return attention probabilities. Set output_attentions=False, or "
                "model.attention=transformers."
            )
        query_states = hidden_states if query_states is None else query_states
        dropout = round_probability(self.dropout.p, hidden_states.device) if self.training else 0.0
        if attention_mask.fused is not None:
            return self._attend_fused(
                hidden_states, query_states, attention_mask.fused, relative_pos, rel_embeddings, dropout
            )
        scale = self._scale()
        query = self._split_heads(self.query_proj(query_states)) / scale
        key = self._split_heads(self.key_proj(hidden_states))
        value = self._split_heads(self.value_proj(hidden_states))
        key_of_distance, query_of_distance = self._project_distances(relative_pos, rel_embeddings)
        if key_of_distance is not None and relative_pos is not None:
            key_of_distance = key_of_distance.index_select(0, relative_pos.places.flip(0))
        if query_of_distance is not None and relative_pos is not None:
            query_of_distance = query_of_distance.index_select(0, relative_pos.places) / scale
        context = attend(query, key, value, key_of_distance, query_of_distance, attention_mask, dropout)
        return context.flatten(2), None

    def _attend_fused(
        self,
        hidden_states: Tensor,
        query_states: Tensor,
        rows: FusedRows,
        distances: Distances | None,
        embeddings: Any,
        dropout: float,
    ) -> tuple[Tensor, None]:
        # Cast once, not by each of the three projections, and their gradients are summed before they are cast back.
        (hidden,) = cast_to_matmul([hidden_states])
        (asking,) = (hidden,) if query_states is hidden_states else cast_to_matmul([query_states])
        states = (self.query_proj(asking), self.key_proj(hidden), self.value_proj(hidden))
        query, key, value = (self._split_heads(state.flatten(0, 1)) for state in cast_to_matmul(states))
        key_of_distance, query_of_distance = self._project_distances(distances, embeddings)
        terms = rows.find_terms(distances, key_of_distance is not None, query_of_distance is not None)
        tables = cast_to_matmul([table for table in (key_of_distance, query_of_distance) if table is not None])
        table = torch.stack(tables) if tables else None
        context = attend_fused(query, key, value, table, terms, rows, 1 / self._scale(), dropout)
        return context.view(*hidden_states.shape[:-1], -1), None

    def _scale(self) -> float:
        num_terms = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        # Rounded to float32, as transformers does whatever the dtype of the model.
        return float(torch.tensor(float(self.attention_head_size * num_terms)).sqrt())

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:-1], self.num_attention_heads, -1)

    def _project_distances(self, distances: Distances | None, embeddings: Any) -> tuple[Tensor | None, Tensor | None]:
        """Return a key and a query (reached, heads, D) for each embedding that is in reach.

        None for a term that this model has not.
        """
        if distances is None:
            return None, None
        key = query = None
        reached = self.pos_dropout(embeddings[distances.first : distances.end])
        if "c2p" in self.pos_att_type:
            key = self._split_heads((self.key_proj if self.share_att_key else self.pos_key_proj)(reached))
        if "p2c" in self.pos_att_type:
            query = self._split_heads((self.query_proj if self.share_att_key else self.pos_query_proj)(reached))
        return key, query
