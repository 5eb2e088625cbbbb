"""Dropout that is cheap on a CPU, where torch draws its masks one number after another.

A call takes one number of torch's own generator as the seed of numpy's SFC64, whose 16 random bits an element say
whether it is kept. So masks follow from `torch.manual_seed` alone: a micro-batch drops the same on whichever rank it
runs, and activations that are computed again, with the generator's state put back, drop the same again.

Of p the nearest multiple of 1 / 65,536 is taken, and what is kept is divided by the share that is really kept, so that
the expectation is exact.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

RESOLUTION = 65536  # values of 16 bits


def count_dropped(p: float) -> int:
    """Return how many of 65,536 values of an element's random bits drop it, at probability p."""
    return round(p * RESOLUTION)


def scale_of_kept(num_dropped: int) -> float:
    """Return what kept elements are multiplied by; 0 where none is kept."""
    return 0.0 if num_dropped == RESOLUTION else RESOLUTION / (RESOLUTION - num_dropped)


def draw_kept(shape: Sequence[int], num_dropped: int) -> Tensor:
    """Return a uint8 tensor on the host, 1 where an element is kept; takes one number of torch's generator.

    Not bool: torch converts uint8 to floating point with the CPU's vectors, and bool element by element.
    """
    seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu"))
    num_elements = math.prod(shape)
    bits = np.random.SFC64(seed).random_raw(-(-num_elements // 4)).view(np.uint16)[:num_elements]
    return torch.from_numpy((bits >= num_dropped).view(np.uint8)).reshape(tuple(shape))


def multiply_kept(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Return x * kept * scale in the type of x, rounded once."""
    result = kept.to(x.dtype)
    return torch.addcmul(x.new_zeros(()), x, result, value=scale, out=result)


class _CheapDropout(torch.autograd.Function):
    """Keeps one byte an element for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_dropped: int) -> Tensor:
        kept = draw_kept(x.shape, num_dropped)
        ctx.save_for_backward(kept)
        ctx.scale = scale_of_kept(num_dropped)
        return multiply_kept(x, kept, ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return multiply_kept(gradient, kept, ctx.scale), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
def cheap_dropout(x: Tensor, p: float) -> Tensor:
    """Return x on the host with elements dropped with probability p, the others scaled so that the mean stays.

    Any shape and floating type. See this module for the resolution of p and where the mask comes from.
    """
    apply: Any = _CheapDropout.apply  # torch has no types for it
    dropped: Tensor = apply(x, count_dropped(p))
    return dropped


class CheapDropout(nn.Dropout):
    """nn.Dropout, but for what lies on a CPU in training: that goes through `cheap_dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p > 0 and x.device.type == "cpu":
            dropped: Tensor = cheap_dropout(x, self.p)
            return dropped
        return super().forward(x)


def use_cheap_dropout(module: nn.Module) -> None:
    """Put a `CheapDropout` into the place of every nn.Dropout that drops anything.

    On a GPU and in evaluation all stays as it was. Dropouts of other classes, and those that a model calls as
    functions, stay torch's own.
    """
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if type(part) is nn.Dropout and part.p > 0:
                parent.add_module(name, CheapDropout(part.p).train(part.training))
