"""The one vocabulary for every back-end: what training, evaluation and checkpoints may ask for.

Nothing above this floor knows which back-end runs. `runtime/replicated.py` (single process, DDP),
`runtime/fsdp.py` (FSDP2) and `runtime/zero.py` (DeepSpeed ZeRO) speak it; `runtime/parallel.py` chooses.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pref_dist.config.train_section import Precision


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to know of the run config."""

    precision: Precision
    clip_norm: float | None
    initial_loss_scale: float = 65536.0
    loss_scale_growth_interval: int = 2000


@dataclass(frozen=True)
class StepOutcome:
    """What became of one optimiser step; the same on every rank.

    grad_norm: L2 norm of the whole gradient, before clipping, loss scale taken out.
    skipped: no parameter and no optimiser state changed, because a gradient was not finite.
    """

    grad_norm: float
    skipped: bool


@dataclass(frozen=True)
class QueuedStep:
    """An optimiser step that the device may still be at. Both are () tensors of what `StepOutcome` says in numbers.

    On a GPU the host goes on while they are computed.
    """

    grad_norm: Tensor
    skipped: Tensor

    def read(self) -> StepOutcome:
        """Wait for the device and return what became of the step."""
        return StepOutcome(float(self.grad_norm), bool(self.skipped))


@dataclass(frozen=True)
class LossScale:
    """State of the dynamic loss scale (fp16): doubles after `growth_interval` clean steps, halves on overflow."""

    scale: float
    clean_steps: int


@dataclass(frozen=True)
class ParameterState:
    """One parameter as a checkpoint keeps it, whole, on the host; fp32 (fp64 where the weights are).

    exp_avg and exp_avg_sq are AdamW's moments, of the parameter's shape; step is its update count.
    """

    value: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int


class InferenceEngine(Protocol):
    """A model on this rank's device that answers; every method is collective."""

    def forward(self, inputs: Mapping[str, Any], is_last: bool = True) -> Tensor:
        """Return the logits (R, C) of one micro-batch, in fp32 or wider, under the run's precision.

        `inputs` are the keyword arguments of the model's forward, already on the rank's device.
        `is_last` is true for the last micro-batch of the step on this rank, as in `backward`: a
        back-end may have to know before the forward whether gradients will be exchanged after it.
        """


class Engine(InferenceEngine, Protocol):
    """A model with its optimiser on this rank's device, as one back-end runs it.

    Every method is collective: all ranks call it, in the same order, equally often.
    """

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of this rank's share of the step's loss.

        `loss` is (sum of weighted row losses) / (global weight of the step), so that the sum over all
        ranks and micro-batches is the step's loss; the engine undoes any averaging of its back-end.
        `is_last` is true for the last micro-batch of the step on this rank.
        """

    def step(self, learning_rate_factor: float) -> QueuedStep:
        """Clip, update with every group's peak learning rate times the factor, clear the gradients.

        A gradient that is not finite on any rank changes nothing on all of them (`skipped`): the device itself
        decides, so that the host need not wait for the norm before it asks for the update.
        """

    def train(self) -> None:
        """Dropout on."""

    def eval(self) -> None:
        """Dropout off."""

    def read_state(self) -> Iterator[tuple[str, ParameterState]]:
        """Yield (name, whole state) for every trained parameter, in the model's order, on every rank.

        Copies, which later steps leave as they are: a checkpoint is written while training goes on.
        """

    def write_state(self, read: Callable[[str], ParameterState]) -> None:
        """Set every trained parameter and its optimiser state to `read(name)`, so that training goes on bit for bit."""

    def read_loss_scale(self) -> LossScale | None:
        """Return the dynamic loss scale, or None where the precision has none."""

    def write_loss_scale(self, loss_scale: LossScale) -> None:
        """Go on with a saved loss scale."""

    def describe(self) -> dict[str, Any]:
        """What really runs (back-end, ZeRO stage, parameter dtype, ...), for the log and for assertions."""
