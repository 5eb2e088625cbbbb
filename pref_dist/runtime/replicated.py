"""The engine where every rank holds the whole model: one process, or DDP; `zero0.py` lets DeepSpeed run it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pref_dist.models.row_embedding import list_row_tables
from pref_dist.optim import ADAM_BETAS, ADAM_EPSILON, create_moments, trained_parameters
from pref_dist.runtime.engine import EngineSettings, LossScale, ParameterState, QueuedStep
from pref_dist.runtime.precision import autocast_to
from pref_dist.runtime.row_update import TouchedRows, collect_rows, spread_over_tables


class ReplicatedEngine:
    """fp32 (or fp64) weights on every rank, torch's autocast, GradScaler for fp16. See `Engine`.

    `wrapped` is `module` itself on one rank, or DDP around it. `groups` None: inference only.
    """

    def __init__(
        self,
        module: nn.Module,
        wrapped: nn.Module,
        groups: list[dict[str, Any]] | None,
        settings: EngineSettings,
        device: torch.device,
        world_size: int,
    ) -> None:
        self._module, self._wrapped = module, wrapped
        self._settings, self._device, self._world_size = settings, device, world_size
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._row_tables = list_row_tables(module)
        self._optimizer: torch.optim.AdamW | None = None
        if groups is not None:
            self._peaks = [group["lr"] for group in groups]
            self._optimizer = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)
            create_moments(self._optimizer)
        self._scaler = torch.amp.GradScaler(
            device.type,
            init_scale=settings.initial_loss_scale,
            growth_interval=settings.loss_scale_growth_interval,
            enabled=settings.precision == "fp16",
        )

    @property
    def optimizer(self) -> torch.optim.AdamW:
        assert self._optimizer is not None, "an engine for inference has no optimiser"
        return self._optimizer

    def forward(self, inputs: Mapping[str, Any], is_last: bool = True) -> Tensor:
        module = self._wrapped if torch.is_grad_enabled() else self._module
        with autocast_to(self._settings.precision, self._device), self._exchange(is_last):
            logits: Tensor = module(**inputs).logits
        return logits if logits.dtype == torch.float64 else logits.float()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        scaled: Tensor = self._scaler.scale(loss)
        with self._exchange(is_last):
            self._run_backward(scaled)

    def _run_backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def _exchange(self, is_last: bool) -> AbstractContextManager[Any]:
        """Let DDP exchange gradients after the last micro-batch only; it must be told around the forward, too."""
        no_sync = getattr(self._wrapped, "no_sync", None)
        return nullcontext() if is_last or no_sync is None else no_sync()

    def step(self, learning_rate_factor: float) -> QueuedStep:
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * learning_rate_factor
        self._scaler.unscale_(self.optimizer)
        self._sum_over_ranks()
        touched = [collect_rows(table, self._world_size) for table in self._row_tables]
        parameters = [*self._parameters, *(one.rows for one in touched)]
        limit = self._settings.clip_norm
        # The norm is taken after the exchange, so that every rank sees the same and decides alike.
        norm = nn.utils.clip_grad_norm_(parameters, limit if limit is not None else float("inf"))
        skipped = ~norm.isfinite()
        skip_where(self.optimizer, skipped)
        self._update(touched, skipped)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return QueuedStep(grad_norm=norm.detach(), skipped=skipped)

    def _update(self, touched: list[TouchedRows], skipped: Tensor) -> None:
        # Not through the scaler, which would wait for its own look at the gradients.
        with spread_over_tables(touched):
            self.optimizer.step()
        for one in touched:
            if not one.embedding.is_updated_whole:
                one.update(self.optimizer, skipped)

    def _sum_over_ranks(self) -> None:
        """Undo DDP's division: a step's loss is the sum of the ranks' shares.

        After the backward, not by a larger loss before it: so fp16 overflows in the same steps on any number of ranks.
        """
        if self._world_size > 1:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, float(self._world_size))

    def train(self) -> None:
        self._wrapped.train()

    def eval(self) -> None:
        self._wrapped.eval()

    def read_state(self) -> Iterator[tuple[str, ParameterState]]:
        for name, parameter in trained_parameters(self._module):
            moments = self.optimizer.state[parameter]
            values = (parameter, moments["exp_avg"], moments["exp_avg_sq"])
            value, exp_avg, exp_avg_sq = (value.detach().to("cpu", copy=True) for value in values)
            yield name, ParameterState(value, exp_avg, exp_avg_sq, int(moments["step"]))

    def write_state(self, read: Callable[[str], ParameterState]) -> None:
        for name, parameter in trained_parameters(self._module):
            state, moments = read(name), self.optimizer.state[parameter]
            with torch.no_grad():
                parameter.copy_(state.value)
            moments["step"].fill_(state.step)
            moments["exp_avg"].copy_(state.exp_avg)
            moments["exp_avg_sq"].copy_(state.exp_avg_sq)

    def read_loss_scale(self) -> LossScale | None:
        if not self._scaler.is_enabled():
            return None
        state = self._scaler.state_dict()
        return LossScale(scale=float(state["scale"]), clean_steps=int(state["_growth_tracker"]))

    def write_loss_scale(self, loss_scale: LossScale) -> None:
        state = self._scaler.state_dict()
        self._scaler.load_state_dict(state | {"scale": loss_scale.scale, "_growth_tracker": loss_scale.clean_steps})

    def describe(self) -> dict[str, Any]:
        return {
            "backend": "ddp" if self._wrapped is not self._module else "single",
            "world_size": self._world_size,
            "weight_dtype": str(next(trained_parameters(self._module))[1].dtype),
            "precision": self._settings.precision,
            "optimizer": "AdamW (fused)",
        }


def skip_where(optimizer: torch.optim.Optimizer, skipped: Tensor) -> None:
    """Let the next update of a fused AdamW change nothing, not even its count of updates, if `skipped` () is true.

    Its kernels read it on the device, as they read what torch's GradScaler tells them in the same attribute.
    """
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]  # GradScaler's own way
