"""Forward and backward of disentangled attention over rows of one length, every pass over the scores written out.

Suffixes: R rows, H heads, L tokens, D size of a head, M = 2L - 1 distances.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pref_dist.models.deberta.dropout import draw_dropped
from pref_dist.models.deberta.skew import by_distance, by_pair, divide, with_heads_outside


@dataclass
class Operands:
    """query, key, value: (R, H, L, D); key_of_distance, query_of_distance: (M, H, D) or None. Or their gradients."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_of_distance: Tensor | None
    query_of_distance: Tensor | None


def attend_piece(of: Operands, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Return the context (R, H, L, D) and the probabilities (R, H, L, L), those that were dropped negated."""
    scores = _score(of)
    if mask is not None:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    probabilities = _softmax(scores)
    if dropout == 0:
        return probabilities @ of.value, probabilities
    dropped = draw_dropped(probabilities.shape, dropout, probabilities.device)
    # Zero is the only probability whose sign is lost, and there it does not matter.
    signed = torch.where(dropped, -probabilities, probabilities)
    return signed.clamp_min(0) @ (of.value / (1 - dropout)), signed


def _score(of: Operands) -> Tensor:
    """Return the scores (R, H, L, L); the terms of distances go first, since a product can add itself to what is there.

    Those of a distance's query come transposed: to copy them is faster than to add them.
    """
    num_rows, num_heads, num_tokens, _ = of.query.shape
    scores = of.query.new_empty(num_rows, num_heads, num_tokens, num_tokens)
    blocks = list(divide(num_tokens, scores.device.type))
    if of.query_of_distance is None:
        scores.zero_()
    else:
        for block, window in blocks:
            products = by_distance(of.key[:, :, block], of.query_of_distance[window])
            scores[..., block].copy_(by_pair(products, num_rows, block.stop - block.start).transpose(-1, -2))
    if of.key_of_distance is not None:
        for block, window in blocks:
            products = by_distance(of.query[:, :, block], of.key_of_distance[window])
            scores[:, :, block].add_(by_pair(products, num_rows, block.stop - block.start))
    scores.flatten(0, 1).baddbmm_(of.query.flatten(0, 1), of.key.flatten(0, 1).transpose(1, 2))
    return scores


def _softmax(scores: Tensor) -> Tensor:
    # 16-bit: computed in float32 inside, as the softmax that autocast would ask for.
    if scores.device.type == "cpu":
        return torch.softmax(scores, -1, out=scores)
    return torch.softmax(scores, -1)


def find_grads(
    of: Operands, signed: Tensor, context: Tensor, context_grad: Tensor, dropout: float, to: Operands
) -> None:
    """Write the gradients of one piece; those of distances are added to.

    signed: the probabilities that `attend_piece` returned. context, context_grad: (R, H, L, D).
    """
    used, used_grad = signed, context_grad
    if dropout > 0:
        used, used_grad = signed.clamp_min(0), context_grad / (1 - dropout)
    to.value.copy_(used.transpose(-1, -2) @ used_grad)
    grad = used_grad @ of.value.transpose(-1, -2)
    if grad.dtype in (torch.bfloat16, torch.float16):
        score_grad = _find_score_grad_of_16_bits(grad, signed, used)
    else:
        # The sum over keys of probability times its gradient, also with dropout: no pass over the scores needed.
        delta = (context_grad * context).sum(-1, keepdim=True)
        score_grad = _find_score_grad(grad, signed, used, delta)
    query_grad = score_grad @ of.key
    key_grad = score_grad.transpose(-1, -2) @ of.query
    _add_grads_by_distance(of, score_grad, query_grad, key_grad, to)
    to.query.copy_(query_grad)
    to.key.copy_(key_grad)


def _find_score_grad(grad: Tensor, signed: Tensor, used: Tensor, delta: Tensor) -> Tensor:
    """Return probability * (its gradient - delta), (R, H, L, L); what is used has the gradient `grad`, overwritten."""
    if used is signed:
        return grad.sub_(delta).mul_(signed)
    return grad.mul_(used).addcmul_(signed.abs(), delta, value=-1)


def _find_score_grad_of_16_bits(grad: Tensor, signed: Tensor, used: Tensor) -> Tensor:
    """As above; torch finds delta, in float32: a rounded one would push a whole row of gradients to one side."""
    if used is not signed:
        grad, signed = grad.mul_(used > 0), signed.abs()
    score_grad: Tensor = torch.ops.aten._softmax_backward_data(grad, signed, -1, grad.dtype)
    return score_grad


def _add_grads_by_distance(
    of: Operands, score_grad: Tensor, query_grad: Tensor, key_grad: Tensor, to: Operands
) -> None:
    num_rows, num_heads, num_tokens, _ = of.query.shape
    products = score_grad.new_empty(0)
    for block, window in divide(num_tokens, score_grad.device.type):
        size = block.stop - block.start
        shape = (num_heads, num_rows * size, num_tokens + size - 1)
        if products.shape != shape:  # Every block of one size writes the same places, and leaves the same zeros.
            products = score_grad.new_zeros(shape)
        pairs = by_pair(products, num_rows, size)
        if of.key_of_distance is not None and to.key_of_distance is not None:
            pairs.copy_(score_grad[:, :, block])
            to_distances = to.key_of_distance[window]
            _multiply_back(
                products, of.query[:, :, block], of.key_of_distance[window], query_grad[:, :, block], to_distances
            )
        if of.query_of_distance is not None and to.query_of_distance is not None:
            pairs.copy_(score_grad[..., block].transpose(-1, -2))
            to_distances = to.query_of_distance[window]
            _multiply_back(
                products, of.key[:, :, block], of.query_of_distance[window], key_grad[:, :, block], to_distances
            )


def _multiply_back(
    products_grad: Tensor, block_RHBD: Tensor, of_distance_MHD: Tensor, to_block_RHBD: Tensor, to_distance_MHD: Tensor
) -> None:
    """Add the gradients of both factors of `by_distance`."""
    num_rows = len(block_RHBD)
    block_grad = products_grad.bmm(of_distance_MHD.transpose(0, 1))
    to_block_RHBD.add_(block_grad.view(len(block_grad), num_rows, -1, block_grad.shape[2]).transpose(0, 1))
    to_distance_MHD.transpose(0, 1).baddbmm_(products_grad.transpose(1, 2), with_heads_outside(block_RHBD))
