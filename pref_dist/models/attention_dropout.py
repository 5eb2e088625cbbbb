"""Attention with dropout of its probabilities on a CPU, where torch's own leaves its fast kernel as soon as one drops.

Suffixes: H heads, L tokens of the row, D width of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pref_dist.models.dropout import count_dropped, draw_kept, scale_of_kept

# Heads go through together as long as their scores stay in the CPU's caches: 4 MB of fp32.
LARGEST_BLOCK_ELEMENTS = 2**20


class _AttentionWithDropout(torch.autograd.Function):
    """Keeps the probabilities and one byte for each; all else of that size is a block's, and is computed again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scaling: float, num_dropped: int) -> Tensor:
        num_heads, num_tokens, _ = q.shape
        scale = scale_of_kept(num_dropped)
        kept = draw_kept((num_heads, num_tokens, num_tokens), num_dropped)
        probabilities = q.new_empty(kept.shape)
        output = torch.empty_like(v, memory_format=torch.contiguous_format)
        for heads in blocks_of_heads(num_heads, num_tokens):
            scores = torch.bmm(q[heads] * scaling, k[heads].transpose(1, 2))
            torch.softmax(scores, dim=-1, out=probabilities[heads])
            used = scores.copy_(kept[heads]).mul_(probabilities[heads])
            torch.bmm(used, v[heads], out=output[heads])
        output *= scale  # the kept probabilities' scale, where there is less to multiply
        ctx.save_for_backward(q, k, v, probabilities, kept, output)
        ctx.scaling, ctx.scale = scaling, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With P the probabilities, M the mask with its scale and g the gradient of the output:

        dV = (P M)' g; dS = P (M g V' - rowsum(g O)), since the rowsum of P dP is that of g O (Dao et al. 2022,
        FlashAttention, appendix B); dQ = dS K and dK = dS' Q, times the scaling.
        """
        q, k, v, probabilities, kept, output = ctx.saved_tensors
        gradients = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        of_q, of_k, of_v = gradients
        means_HL1 = (gradient * output).sum(dim=-1, keepdim=True)
        gradient = gradient * ctx.scale
        for heads in blocks_of_heads(*q.shape[:2]):
            used = kept[heads].to(q.dtype).mul_(probabilities[heads])
            torch.bmm(used.transpose(1, 2), gradient[heads], out=of_v[heads])
            of_scores = used.mul_(torch.bmm(gradient[heads], v[heads].transpose(1, 2)))
            of_scores.addcmul_(probabilities[heads], means_HL1[heads], value=-1)
            torch.bmm(of_scores, k[heads], out=of_q[heads])
            torch.bmm(of_scores.transpose(1, 2), q[heads], out=of_k[heads])
        return of_q.mul_(ctx.scaling), of_k.mul_(ctx.scaling), of_v, None, None


def blocks_of_heads(num_heads: int, num_tokens: int) -> Iterator[slice]:
    size = max(1, LARGEST_BLOCK_ELEMENTS // max(1, num_tokens) ** 2)
    return (slice(first, first + size) for first in range(0, num_heads, size))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
def attend_with_dropout(q: Tensor, k: Tensor, v: Tensor, scaling: float, p: float) -> Tensor:
    """Return dropout(softmax(q k' * scaling)) v of one row, (H, L, D) as q, k and v, all on the host.

    Probabilities are dropped with probability p as `cheap_dropout` drops. 16-bit inputs are computed in fp32, the
    result has their type.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    inputs = q.to(dtype), k.to(dtype), v.to(dtype)
    apply: Any = _AttentionWithDropout.apply  # torch has no types for it
    with torch.autocast("cpu", enabled=False):
        output: Tensor = apply(*inputs, scaling, count_dropped(p))
    return output.to(q.dtype)
