"""Fast attention for DeBERTa-v2 and v3, on transformers' own modules and weights.

Light on purpose: torch's graph of imports grows by transformers' model only where such a model exists already.
"""

from typing import Any

from torch import nn


def use_fast_attention(encoder: nn.Module) -> None:
    """Let a transformers `DebertaV2Model` compute its attention by this room, in place.

    Parameters, their names and their gradients stay; a second call changes nothing. It then also takes rows without
    padding: with a `PackedRows` in `encoder.encoder.packed_rows`, input_ids and position_ids (1, N), no attention mask.
    Raises ModelError if it is no such model.
    """
    from pref_dist.models.deberta.install import install

    install(encoder)


def packs(config: Any) -> bool:
    """Return whether a model of this transformers config can read rows without padding.

    Not with a convolution (deberta-v2-xlarge): it would mix the end of a row with the start of the next. Everything
    else in these models works on single tokens, or is the attention, which knows the rows.
    """
    return not getattr(config, "conv_kernel_size", 0) > 0
