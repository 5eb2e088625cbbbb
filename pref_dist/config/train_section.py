"""The section `train` of a run config: steps, losses, rates, and what is kept of them."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pref_dist.config.section import Fraction, NonNegative, Positive, Probability, Section

Precision = Literal["fp32", "bf16", "fp16"]
Swap = Literal["none", "random", "paired"]
Schedule = Literal["linear", "cosine", "constant", "plateau"]


class DistillSection(Section):
    logits: str = Field(
        min_length=1,
        description="A Parquet file with a teacher's logits of all training rows, none of which it has learnt from: "
        "oof_logits.parquet of `train --folds` or `blend`.",
    )
    temperature: Positive = Field(2.0, description="Both distributions are softened by it before they are compared.")
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="Share of the teacher in a row's loss; the labels have the rest."
    )


class TrainSection(Section):
    epochs: PositiveInt = Field(1, description="How often every row is seen.")
    max_steps: PositiveInt | None = Field(
        None, description="End after so many optimiser steps, if the epochs have that many; null: all epochs."
    )
    rows_per_step: PositiveInt = Field(
        64,
        description="Rows of one optimiser step, over all ranks together, whatever their number: the batch size.",
    )
    token_budget: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="Most tokens of one micro-batch, padding included; auto: what suits the device of the first start "
        "(CPU 2,048, GPU 8,192 or, with 60 GB, 32,768), but at least the longest row that data.max_tokens allows.",
    )
    micro_batch_multiple: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="The number of micro-batches of a step is rounded up to a multiple of this, so that ranks share "
        "evenly; auto: ranks at the first start. A number makes dropout masks the same on any number of ranks, too.",
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
    label_smoothing: Probability = Field(
        0.0, description="Share of each target that is spread evenly over A, B and tie; in training alone."
    )
    distill: DistillSection | None = Field(
        None, description="Learn from a teacher's logits, too: {logits, temperature, weight}."
    )
    swap: Swap = Field(
        "none",
        description="Orders of A and B that training sees. random: one of the two, drawn a row and epoch; paired: both "
        "in the same step, with half the weight each.",
    )
    clip_norm: Positive | None = Field(1.0, description="Largest norm of the whole gradient; null: no clipping.")
    precision: Precision | Literal["auto"] = Field(
        "auto",
        description="Type of the forward and backward; master weights and moments stay fp32. auto: bf16 on a GPU that "
        "has it, fp16 on an older one, fp32 on a CPU; settled at the first start and kept with the run.",
    )
    initial_loss_scale: Positive = Field(65536.0, description="fp16: first loss scale (a power of two).")
    loss_scale_growth_interval: PositiveInt = Field(
        2000, description="fp16: the scale doubles after so many steps without an overflow."
    )
    save_every_steps: PositiveInt | None = Field(
        None, description="Save a checkpoint after so many steps, besides save_every_minutes; null: by time alone."
    )
    save_every_minutes: Positive | None = Field(
        10.0,
        description="Save when the last checkpoint is older than this; null: not by time. A stop and the end of a run "
        "save in any case.",
    )
    keep_last: PositiveInt = Field(2, description="Newest checkpoints kept; the best one is kept in any case.")
    async_save: bool = Field(
        False,
        description="Write checkpoints while training goes on: each rank first copies its part (up to 12 bytes a "
        "parameter, shared among the ranks) to the host's memory.",
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        10,
        description="How many steps in a row may be skipped because a gradient is not finite (fp16: an overflow). One "
        "more ends the run with exit code 7 and names the rows.",
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
