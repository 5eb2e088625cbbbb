"""The run config: every key, its default, its meaning. Unknown keys are errors.

A key stands here only when it works. `CHANGEABLE` names the keys that a resumed run may change,
because the result does not depend on them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pref_dist.config.model_section import ModelKind, ModelSection
from pref_dist.config.section import NonNegative, Positive, Section, Weight
from pref_dist.config.train_section import TrainSection
from pref_dist.findings import Kind, Policies, Policy

Backend = Literal["single", "ddp", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"]
DataFormat = Literal["auto", "lmsys", "plain", "wsdm", "arena", "pairs"]
SplitMethod = Literal["grouped_hash", "grouped_stratified", "random_stratified"]
EvaluateSwap = Literal["none", "full", "selective"]
Template = Literal["joint", "chat", "siamese", "seed_joint", "seed_siamese"]
Truncation = Literal["fair", "last_rounds", "left", "right"]
Tracker = Literal["tensorboard", "wandb"]

# The template that a kind of model reads where none is named.
DEFAULT_TEMPLATES: dict[ModelKind, Template] = {
    "joint": "joint",
    "siamese": "siamese",
    "decoder": "chat",
}


class RunSection(Section):
    dir: str = Field("runs/default", min_length=1, description="Run folder; everything a run leaves is in it.")
    seed: int = Field(42, ge=0, lt=2**63, description="Seeds new weights, the order of rows, dropout and the split.")
    deterministic: bool = Field(
        False,
        description="Ask torch for deterministic kernels: slower on a GPU, and an error where there is none. Steps, "
        "order of rows and dropout masks are seeded in any case.",
    )
    trackers: list[Tracker] = Field(
        default_factory=list,
        description="What else gets the lines of metrics.jsonl: tensorboard, wandb (offline unless WANDB_MODE is set). "
        "Files under logs/ in the run folder.",
    )

    @field_validator("trackers")
    @classmethod
    def check_trackers(cls, trackers: list[Tracker]) -> list[Tracker]:
        if len(set(trackers)) < len(trackers):
            raise ValueError("each tracker may be named once")
        return trackers


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
        description="Layout of the columns. lmsys: JSON lists of turns; plain: one string each; wsdm: WSDM Cup 2025; "
        "arena: conversations of lmarena; pairs: chosen and rejected; auto: found from the columns (docs/data.md).",
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
    fold: Annotated[int, Field(ge=0)] = Field(
        0, description="The fold that is held out, from 0; `train --folds` and `--fold` set it themselves."
    )
    template: Template = Field(
        "joint",
        description="How a row becomes text. joint: prompt, A and B as three segments; chat (decoder's default): these "
        "in the tokenizer's chat template; siamese (that kind's default): prompt with A and prompt with B, two "
        "sequences; seed_joint, seed_siamese: the notebooks' strings.",
    )
    clean: Literal["none", "seed_ascii"] = Field(
        "none", description="seed_ascii: white space collapsed and everything beyond ASCII dropped, as a notebook does."
    )
    max_tokens: int = Field(
        1024,
        ge=32,
        description="Most tokens of a whole row, special tokens included; with a siamese template of each side. Longer "
        "rows are cut as truncation says; more than the model has positions for is an error.",
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
        description="Policy of single kinds of finding, such as {duplicate_pair: set_aside}. The kinds: docs/data.md.",
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
            raise ValueError(
                "num_folds cuts train, so valid must be null (or num_folds; launch/submission.sh: --folds 1)"
            )
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


class EvaluateSection(Section):
    every_steps: PositiveInt | None = Field(
        None, description="Evaluate after so many steps, besides every_epochs; null: by epochs alone."
    )
    every_epochs: Positive | None = Field(
        1.0,
        description="Evaluate after so many epochs (0.25: four times an epoch); null: not by epochs. The end of a run "
        "always evaluates.",
    )
    token_budget: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="Most tokens of one evaluation batch, padding included; auto: as train.token_budget, twice as "
        "many.",
    )
    swap: EvaluateSwap = Field(
        "none",
        description="Orders of A and B wherever logits are made (validation, evaluate, predict, blend). full: both, "
        "and the mean of their probabilities counts; selective: the second one only of the most uncertain rows. A "
        "siamese model encodes a row once for both, so that selective is full there.",
    )
    swap_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.3, description="selective: the share of rows, those of the largest entropy, that get the second order."
    )
    describe: bool = Field(
        True,
        description="At the end of training describe the held-out rows as `evaluate` does (intervals, slices, "
        "calibration, worst rows) and compare with simple baselines; false: the scores alone.",
    )
    calibrate: Literal["none", "temperature"] = Field(
        "none",
        description="temperature: predict divides logits by the temperature in the run's calibration.json, if that was "
        "fitted on logits of the same step and evaluate.swap and its gain's interval excludes zero.",
    )
    quantize: Literal["none", "int8"] = Field(
        "none",
        description="int8: evaluate, predict and blend multiply 8-bit integers in the model's layers, about half the "
        "time on a CPU with such instructions, if held-out rows lose no more than quantize_tolerance by it (so the "
        "files that the run was trained on must be there). By single or ddp. Training evaluates without it.",
    )
    quantize_tolerance: NonNegative = Field(
        0.001, description="int8: how much the log loss of up to 512 held-out rows may rise, in nats."
    )

    @property
    def orders(self) -> str:
        """How logits came to their second order, in words; figures fitted on them are of logits made alike."""
        return f"{self.swap} ({self.swap_share:g})" if self.swap == "selective" else self.swap


class RunConfig(Section):
    """One run, completely. See each section's keys."""

    run: RunSection = RunSection()
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="before")
    @classmethod
    def let_kind_choose_template(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        model, data = values.get("model"), values.get("data", {})
        kind = model.get("kind") if isinstance(model, dict) else None
        if kind in DEFAULT_TEMPLATES and isinstance(data, dict):
            return {**values, "data": {"template": DEFAULT_TEMPLATES[kind], **data}}
        return values

    @model_validator(mode="after")
    def check_quantize(self) -> "RunConfig":
        if self.evaluate.quantize == "int8" and self.model.lora is not None:
            raise ValueError("evaluate.quantize=int8 is not for model.lora, whose adapters are apart; set it to none")
        return self


CHANGEABLE = frozenset(
    {
        "run.dir",
        "run.trackers",
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
        "evaluate.describe",
        "evaluate.quantize",  # of evaluations and predictions of the finished run alone
        "evaluate.quantize_tolerance",
        "evaluate.calibrate",  # of predictions alone; evaluate.swap decides which step is the best
    }
)
