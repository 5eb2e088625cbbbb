"""Attention of rows on a CPU by matrix products, for where torch's own kernel is slow: dropout, gradients in bf16.

Suffixes: R rows of one length, A heads, T tokens of a row, D width of a head, H heads of all rows.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pref_dist.models.dropout import count_dropped, draw_kept, scale_of_kept

# Heads go through together as long as their scores stay in the CPU's caches: 4 MB of fp32.
LARGEST_BLOCK_ELEMENTS = 2**20


class _RowAttention(torch.autograd.Function):
    """Keeps the probabilities and, if some are dropped, one byte for each; all else of that size is a block's.

    All blocks write what they need to the same places, which so stay in the CPU's caches.

    Scores and their softmax are made in fp32 at least: rounded to 16 bits, a score of 10 would be wrong by .03, and its
    probability by 3 %. All other products take and give the type of the inputs, and so do the probabilities that are
    kept: in bf16 gradients are then about as exact as those of torch's own kernel for it.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scaling: float, num_dropped: int) -> Tensor:
        # From views of a packed sequence some of the products in bf16 would be twice as slow.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        num_heads, num_tokens, _ = q.shape
        wide, scale = torch.promote_types(q.dtype, torch.float32), scale_of_kept(num_dropped)
        probabilities = q.new_empty(num_heads, num_tokens, num_tokens)
        kept = draw_kept(probabilities.shape, num_dropped) if num_dropped > 0 else None
        output = torch.empty_like(v)
        blocks = blocks_of_heads(num_heads, num_tokens)
        scores_of_block = probabilities.new_empty(blocks[0].stop, num_tokens, num_tokens, dtype=wide)
        for heads in blocks:
            scores = scores_of_block[: heads.stop - heads.start]
            torch.bmm(q[heads].to(wide) * scaling, k[heads].to(wide).transpose(1, 2), out=scores)
            if wide == q.dtype:
                torch.softmax(scores, dim=-1, out=probabilities[heads])
            else:
                probabilities[heads] = torch.softmax(scores, dim=-1, out=scores)
            used = probabilities[heads] if kept is None else kept[heads].to(q.dtype).mul_(probabilities[heads])
            torch.bmm(used, v[heads], out=output[heads])
        output *= scale  # the kept probabilities' scale, where there is less to multiply
        ctx.save_for_backward(q, k, v, probabilities, kept)
        ctx.scaling, ctx.scale = scaling, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With P the probabilities, M the mask with its scale, g the gradient of the output and dP = M g V':

        dV = (P M)' g; dS = P (dP - rowsum(P dP)), the softmax's; dQ = dS K and dK = dS' Q, times the scaling.
        """
        q, k, v, probabilities, kept = ctx.saved_tensors
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        gradient = (gradient * ctx.scale).contiguous()
        blocks = blocks_of_heads(*q.shape[:2])
        of_block = probabilities.new_empty(2, blocks[0].stop, *probabilities.shape[1:])
        for heads in blocks:
            used = probabilities[heads]
            of_used, of_scores = of_block[:, : len(used)]
            torch.bmm(gradient[heads], v[heads].transpose(1, 2), out=of_used)
            if kept is not None:
                mask = kept[heads].to(q.dtype)
                of_used *= mask
                used = mask.mul_(used)
            torch.bmm(used.transpose(1, 2), gradient[heads], out=of_v[heads])
            torch.ops.aten._softmax_backward_data.out(of_used, probabilities[heads], -1, q.dtype, grad_input=of_scores)
            torch.bmm(of_scores, k[heads], out=of_q[heads])
            torch.bmm(of_scores.transpose(1, 2), q[heads], out=of_k[heads])
        return of_q.mul_(ctx.scaling), of_k.mul_(ctx.scaling), of_v, None, None


def blocks_of_heads(num_heads: int, num_tokens: int) -> list[slice]:
    """Return as few as fit, the first the largest, of about one size: a thread has little to do with 1 head of 12."""
    most = max(1, LARGEST_BLOCK_ELEMENTS // max(1, num_tokens) ** 2)
    num_blocks = math.ceil(num_heads / most)
    size = math.ceil(num_heads / num_blocks)
    return [slice(first, min(first + size, num_heads)) for first in range(0, num_heads, size)]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
def attend_by_products(q: Tensor, k: Tensor, v: Tensor, scaling: float, p: float) -> Tensor:
    """Return dropout(softmax(q k' * scaling)) v of rows of one length, (R, A, T, D) as q, k and v, all on the host.

    Probabilities are dropped with probability p as `cheap_dropout` drops. fp16, whose range is small and whose products
    are slow, is computed in fp32; the result has the type of the inputs.
    """
    dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
    inputs = (x.to(dtype).flatten(0, 1) for x in (q, k, v))
    apply: Any = _RowAttention.apply  # torch has no types for it
    with torch.autocast("cpu", enabled=False):
        output: Tensor = apply(*inputs, scaling, count_dropped(p))
    return output.to(q.dtype).view(q.shape)
