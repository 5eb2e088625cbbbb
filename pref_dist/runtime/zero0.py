"""The engine where every rank holds the whole model and DeepSpeed runs it: its stage 0, which shares nothing.

Import it only after `start_parallel`, as `zero.py`.
"""

from typing import Any

from torch import Tensor, nn

from pref_dist.runtime import zero_state
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.replicated import ReplicatedEngine
from pref_dist.runtime.row_update import TouchedRows
from pref_dist.runtime.zero_start import describe_engine


class Zero0Engine(ReplicatedEngine):
    """DeepSpeed runs forward and backward and averages the gradients over the ranks, in its buckets. See `Engine`.

    Clipping, the loss scale and the check for gradients that are not finite are those of one process and DDP:
    at stage 0 DeepSpeed (0.19.8) applies a NaN in fp32, and keeps fp16 weights beside the fp32 ones.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        settings: EngineSettings,
        accelerator: Any,
        world_size: int,
    ) -> None:
        module.to(accelerator.device)
        super().__init__(module, module, groups, settings, accelerator.device, world_size)
        self._engine, _ = accelerator.prepare(module, self.optimizer)
        zero_state.leave_loss_scale_to_us(self._engine)
        # `no_sync` says when gradients are not exchanged; all else is the last micro-batch of a step.
        self._engine.set_gradient_accumulation_boundary(True)
        self._wrapped = self._engine

    def _run_backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _update(self, touched: list[TouchedRows], skipped: Tensor) -> None:
        assert not touched, "no table is updated by rows here"
        self._engine.step()

    def describe(self) -> dict[str, Any]:
        return super().describe() | describe_engine(self._engine)
