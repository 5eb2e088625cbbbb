"""The engine where ranks share weights, gradients and optimiser: FSDP2, torch's own `fully_shard`, on gloo or NCCL.

As stage 3 of ZeRO, without DeepSpeed: each rank keeps a slice of every parameter, of its fp32 value, gradient
and moments; a layer's whole weights stand on a rank only while it computes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pref_dist.errors import TrainingError
from pref_dist.optim import ADAM_BETAS, ADAM_EPSILON, create_moments
from pref_dist.runtime import fsdp_state
from pref_dist.runtime.engine import EngineSettings, LossScale, ParameterState, QueuedStep
from pref_dist.runtime.fsdp_shards import copy_from_rank_0, find_layers, shard_module
from pref_dist.runtime.loss_scale import DynamicLossScale
from pref_dist.runtime.precision import autocast_to
from pref_dist.runtime.replicated import skip_where


class FsdpInference:
    """A model whose weights the ranks share, for evaluation alone. Every rank must run equally many forwards."""

    def __init__(self, module: nn.Module, settings: EngineSettings, device: torch.device) -> None:
        self._settings, self._device = settings, device
        self._num_layers = len(find_layers(module))
        self._module = module
        self._shared, self._mesh = shard_module(module, device)
        # While the root's weights are gathered the module holds other objects than these, the shards.
        self._parameters: dict[str, nn.Parameter] = dict(self._module.named_parameters())

    def forward(self, inputs: Mapping[str, Any], is_last: bool = True) -> Tensor:
        with autocast_to(self._settings.precision, self._device):
            logits: Tensor = self._module(**inputs).logits
        return logits if logits.dtype == torch.float64 else logits.float()

    def eval(self) -> None:
        self._module.eval()

    def describe(self) -> dict[str, Any]:
        """What torch says of the parameters, not what it was told."""
        parameters = list(self._parameters.values())
        is_shared = all(isinstance(parameter, DTensor) for parameter in parameters)
        return {
            "backend": "fsdp2" if is_shared else "not shared",
            "world_size": self._mesh.size(),
            "weight_dtype": str(next(value.dtype for value in parameters if value.requires_grad)),
            "precision": self._settings.precision,
            "layers_apart": self._num_layers,
            "optimizer": None,
        }


class FsdpEngine(FsdpInference):
    """fp32 (or fp64) slices on every rank, torch's autocast, a dynamic loss scale for fp16. See `Engine`.

    The gathered weights are the fp32 ones, so that autocast means what it means under DDP; torch's own
    mixed precision would round biases, norms and embeddings, which autocast does not.
    """

    def __init__(
        self, module: nn.Module, groups: list[dict[str, Any]], settings: EngineSettings, device: torch.device
    ) -> None:
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        grouped = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
        copy_from_rank_0(module, device)
        super().__init__(module, settings, device)
        self._is_all_trained = all(parameter.requires_grad for parameter in self._parameters.values())
        self._peaks = [float(group["lr"]) for group in groups]
        # Sharding has replaced the parameters.
        self._optimizer = torch.optim.AdamW(
            [
                {**group, "params": [self._parameters[name] for name in members]}
                for group, members in zip(groups, grouped, strict=True)
            ],
            betas=ADAM_BETAS,
            eps=ADAM_EPSILON,
            fused=True,
        )
        create_moments(self._optimizer)
        self._loss_scale: DynamicLossScale | None = None
        if settings.precision == "fp16":
            # World size 1: gradients are summed over the ranks here, not averaged.
            self._loss_scale = DynamicLossScale(settings.initial_loss_scale, settings.loss_scale_growth_interval, 1)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """See `Engine`. Gradients are exchanged once a step; between its micro-batches each rank keeps its own, whole.

        Where that stands, the weights may stay, too, and are not gathered again for the next forward. Not so
        with frozen weights, which would be most of the memory.
        """
        self._shared.set_requires_gradient_sync(is_last)
        self._shared.set_is_last_backward(is_last)
        self._shared.set_reshard_after_backward(is_last or not self._is_all_trained)
        torch.autograd.backward(loss if self._loss_scale is None else self._loss_scale.scale_loss(loss))

    def step(self, learning_rate_factor: float) -> QueuedStep:
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * learning_rate_factor
        gradients = self._own_gradients()
        if self._loss_scale is not None:
            torch._foreach_mul_(gradients, 1.0 / self._loss_scale.loss_scale)
        norm = self._norm_over_ranks(gradients)
        skipped = ~norm.isfinite()
        self._clip(gradients, norm)
        skip_where(self._optimizer, skipped)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._loss_scale is not None:
            self._loss_scale.update_scale(bool(skipped))  # kept on the host, which waits for the device here
            self._loss_scale.grow_if_due()
        return QueuedStep(grad_norm=norm, skipped=skipped)

    def _own_gradients(self) -> list[Tensor]:
        """This rank's slices of the gradient, already summed over the ranks.

        Raises TrainingError if a trained parameter has none: its rank would never exchange it.
        """
        trained = {name: value for name, value in self._parameters.items() if value.requires_grad}
        missing = [name for name, value in trained.items() if value.grad is None]
        if missing:
            raise TrainingError(
                f"{len(missing)} of {len(trained)} parameters took no part in the step (first: {missing[0]}). Every "
                "trained parameter must, in every micro-batch; use another model.pooling or a model without it."
            )
        return [value.grad.to_local() for value in trained.values() if isinstance(value.grad, DTensor)]

    def _norm_over_ranks(self, gradients: list[Tensor]) -> Tensor:
        """L2 norm () of the whole gradient, float64; the same bits on every rank, so that all decide alike."""
        square = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        torch.distributed.all_reduce(square, group=self._mesh.get_group())
        return square.sqrt()

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        limit = self._settings.clip_norm
        if limit is not None:
            # As torch's clip_grad_norm_ does it, which has the constant, too: without a look at the norm.
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))

    def train(self) -> None:
        # An evaluation leaves the root's weights gathered: an update would not reach them.
        self._shared.reshard()
        self._module.train()

    def read_state(self) -> Iterator[tuple[str, ParameterState]]:
        """One parameter at a time is gathered, so that a whole model never stands on a device."""
        yield from fsdp_state.read_states(self._parameters, self._optimizer)

    def write_state(self, read: Callable[[str], ParameterState]) -> None:
        self._shared.reshard()
        fsdp_state.write_states(self._parameters, self._optimizer, read)

    def read_loss_scale(self) -> LossScale | None:
        return None if self._loss_scale is None else self._loss_scale.read()

    def write_loss_scale(self, loss_scale: LossScale) -> None:
        if self._loss_scale is not None:
            self._loss_scale.write(loss_scale)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"optimizer": "AdamW (fused)"}
