"""Encoders that work on real tokens alone: the rows of a micro-batch go through them as one sequence.

Every layer but the attention looks at one token at a time, so that it needs no rows at all.
"""

from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ModelError
from pref_dist.models import packed_attention
from pref_dist.models.deberta import packs, use_fast_attention
from pref_dist.models.packed_rows import PackedRows, find_rows

# Where the tokens stand that the model is being called with, and how many each line has: of this thread, since several
# may ask one model.
KNOWN_PLACES: ContextVar[tuple[Tensor | None, tuple[int, ...] | None]] = ContextVar("places", default=(None, None))

# Whose layers hand what they do not know down to the attention.
FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "modernbert"})
DEBERTA = "deberta-v2"  # and v3
# Positions count from the padding token's id on, and a token with this id has none.
POSITIONS_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})


def settle_attention(module: nn.Module, settings: ModelSection) -> str:
    """Make a built model pack its rows if it can and may; return what will run.

    "packed": rows without padding; "fast": padded ones, with attention of ours; "transformers". Changes no parameter.
    Raises ModelError if `fast` is asked for and the family is not known.
    """
    encoder = find_encoder(module)
    if settings.attention == "transformers" or not is_known(encoder):
        if settings.attention == "fast":
            raise ModelError(
                f"model.attention=fast, but model.name={settings.name} ({encoder.config.model_type}) is of a family "
                f"whose rows cannot be packed, or a decoder (is_decoder). Known are the encoders of "
                f"{', '.join(sorted({*FAMILIES, DEBERTA}))}. Set model.attention=auto."
            )
        module.register_forward_pre_hook(drop_places, with_kwargs=True)
        return "transformers"
    if encoder.config.model_type == DEBERTA:
        use_fast_attention(encoder)
    else:
        packed_attention.register()
        encoder.set_attn_implementation(packed_attention.NAME)
    if encoder.config.model_type == DEBERTA and not packs(encoder.config):
        module.register_forward_pre_hook(drop_places, with_kwargs=True)
        return "fast"
    encoder.forward = MethodType(forward_packed, encoder)
    module.register_forward_pre_hook(hand_over_places, with_kwargs=True)
    return "packed"


def is_known(encoder: Any) -> bool:
    return encoder.config.model_type in {*FAMILIES, DEBERTA} and not getattr(encoder.config, "is_decoder", False)


def find_encoder(module: nn.Module) -> Any:
    """Return the encoder of a classifier, ours or transformers' own."""
    return module.get_submodule(str(module.base_model_prefix))


def drop_places(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take from what a model is called with that which the classes of transformers do not know."""
    kwargs.pop("token_places", None)
    kwargs.pop("line_lengths", None)
    return args, kwargs


def hand_over_places(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give `token_places` and `line_lengths` to the packed encoder, past the class around it."""
    KNOWN_PLACES.set((kwargs.pop("token_places", None), kwargs.pop("line_lengths", None)))
    return args, kwargs


def forward_packed(
    encoder: Any, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
) -> Any:
    """Run an encoder on the real tokens of input_ids (R, T); what it returns is (R, T, H), 0 where there are none.

    Takes what its class takes. Raises ModelError for what only padded rows have.
    """
    if input_ids is None or kwargs.get("output_attentions"):
        asked = "inputs_embeds" if input_ids is None else "output_attentions"
        raise ModelError(f"Packed rows have no {asked}. Load the model with model.attention=transformers.")
    places, lengths = KNOWN_PLACES.get()
    KNOWN_PLACES.set((None, None))
    rows = find_rows(torch.ones_like(input_ids) if attention_mask is None else attention_mask, places, lengths)
    output = run_packed(encoder, rows, input_ids, pack_given(kwargs, rows, input_ids))
    output.last_hidden_state = rows.unpack(output.last_hidden_state.squeeze(0))
    if output.get("hidden_states") is not None:
        output.hidden_states = tuple(rows.unpack(hidden.squeeze(0)) for hidden in output.hidden_states)
    if getattr(encoder, "pooler", None) is not None:
        output.pooler_output = encoder.pooler(output.last_hidden_state)
    return output


def pack_given(given: dict[str, Any], rows: PackedRows, input_ids: Tensor) -> dict[str, Any]:
    """Return what else an encoder is called with, packed where it has a value for each token."""
    packed = {}
    for name, value in given.items():
        is_by_token = isinstance(value, Tensor) and value.shape[:2] == input_ids.shape
        packed[name] = rows.pack(value).unsqueeze(0) if is_by_token else value
    return {name: value for name, value in packed.items() if value is not None}


def run_packed(encoder: Any, rows: PackedRows, input_ids: Tensor, given: dict[str, Any]) -> Any:
    """Return what the encoder's class returns of the packed rows (1, N); `given`: what else it is called with."""
    inputs = {"input_ids": rows.pack(input_ids).unsqueeze(0), **place_tokens(encoder, input_ids, rows), **given}
    if encoder.config.model_type != DEBERTA:
        return type(encoder).forward(encoder, attention_mask=None, packed_rows=rows, **inputs)
    encoder.encoder.packed_rows = rows  # its layers take no argument that they do not know
    try:
        return type(encoder).forward(encoder, **inputs)
    finally:
        encoder.encoder.packed_rows = None


def place_tokens(encoder: Any, input_ids: Tensor, rows: PackedRows) -> dict[str, Tensor]:
    """Return the positions (1, N) of all tokens, as the model's family counts them."""
    positions = rows.positions
    if encoder.config.model_type in POSITIONS_FROM_PADDING:
        embeddings = encoder.embeddings
        positions = rows.pack(embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx))
    return {"position_ids": positions.unsqueeze(0)}
