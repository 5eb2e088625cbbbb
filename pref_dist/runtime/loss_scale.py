"""The dynamic loss scale for fp16 of FSDP2, and of the DeepSpeed engine in place of its own."""

from torch import Tensor

from pref_dist.runtime.engine import LossScale


class DynamicLossScale:
    """Halves on overflow, doubles after `growth_interval` clean steps: torch's GradScaler, inside DeepSpeed.

    It stands where DeepSpeed keeps its own scaler and has that one's interface. DeepSpeed's (0.19.8)
    doubles between taking the norm and dividing the gradients by the scale, so that every step of growth
    is taken with half the gradient; it also counts one step too many at first, and raises at scale 1.
    Here `update_scale` only counts, and the engine calls `grow_if_due` when the step is over.
    """

    dynamic = True

    def __init__(self, scale: float, growth_interval: int, world_size: int) -> None:
        # What DeepSpeed divides the gradients by. It has averaged them over the ranks, and their sum is wanted.
        self.cur_scale = scale / world_size
        self._clean_steps, self._growth_interval, self._world_size = 0, growth_interval, world_size

    @property
    def loss_scale(self) -> float:
        return self.cur_scale

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale alike on any number of ranks, so that fp16 overflows in the same steps."""
        return loss * (self.cur_scale * self._world_size)

    def update_scale(self, overflow: bool) -> None:
        """DeepSpeed calls this in every step, before it divides the gradients by the scale."""
        if overflow:
            self.cur_scale /= 2.0
        self._clean_steps = 0 if overflow else self._clean_steps + 1

    def grow_if_due(self) -> None:
        if self._clean_steps >= self._growth_interval:
            self.cur_scale, self._clean_steps = self.cur_scale * 2.0, 0

    def read(self) -> LossScale:
        return LossScale(self.cur_scale * self._world_size, self._clean_steps)

    def write(self, loss_scale: LossScale) -> None:
        self.cur_scale, self._clean_steps = loss_scale.scale / self._world_size, loss_scale.clean_steps
