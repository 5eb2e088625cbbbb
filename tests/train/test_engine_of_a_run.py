"""What `build_engine` makes of a run's settings."""

import pytest
from torch import nn

from pref_dist.config.load import load_config
from pref_dist.models.build import build_model
from pref_dist.models.row_embedding import RowEmbedding, takes_row_gradients
from pref_dist.runtime.parallel import stand_alone
from pref_dist.train.assemble import build_engine


@pytest.mark.parametrize(
    ("settings", "kind", "is_updated_whole"),
    [
        ({"train.precision": "fp32"}, RowEmbedding, True),
        ({"train.precision": "bf16"}, RowEmbedding, True),
        ({"train.precision": "fp32", "model.embeddings": "sparse"}, RowEmbedding, False),
        ({"train.precision": "fp32", "model.embeddings": "frozen"}, nn.Embedding, None),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_trained_tables_gradient_is_kept_by_rows_on_a_cpu(tiny_model, settings, kind, is_updated_whole):
    config = load_config(None, [f"model.name={tiny_model}", *(f"{name}={value}" for name, value in settings.items())])
    built = build_model(config.model, tiny_model, max_tokens=64, vocab_size=1, seed=0)
    build_engine(config, built, stand_alone())
    assert type(built.input_embeddings) is kind
    assert getattr(built.input_embeddings, "is_updated_whole", None) == is_updated_whole


@pytest.mark.parametrize(
    ("precision", "backend"), [("fp16", "ddp"), ("fp32", "zero0"), ("bf16", "zero2"), ("fp32", "fsdp2")]
)
def test_an_engine_that_looks_at_whole_gradients_gets_them(precision, backend):
    assert not takes_row_gradients(precision, backend)
