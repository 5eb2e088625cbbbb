"""The losses of rows: cross-entropy against class probabilities, and what a teacher adds. Smoothing builds targets."""

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss (R,) of each row, in nats; logits and target are (R, C), target rows sum to 1."""
    return -(target.to(logits.dtype) * torch.log_softmax(logits, dim=-1)).sum(dim=-1)


def smooth_targets(target: Tensor, smoothing: float) -> Tensor:
    """Return the targets (R, C) with a share `smoothing` of each spread evenly over the classes.

    Source: Szegedy et al. 2016, section 7, as in Keras' CategoricalCrossentropy(label_smoothing).
    """
    return target if smoothing == 0.0 else (1.0 - smoothing) * target + smoothing / target.shape[-1]


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || model) (R,) of each row, both softened by the temperature T; logits are (R, C).

    T^2 keeps its gradient as large as that of the labels. Source: Hinton, Vinyals, Dean 2015, section 2.
    """
    chances = torch.log_softmax(teacher.to(logits.dtype) / temperature, dim=-1)
    apart = chances - torch.log_softmax(logits / temperature, dim=-1)
    return temperature**2 * (chances.exp() * apart).sum(dim=-1)


def share_of_step(row_losses: Tensor, weight: Tensor, global_weight: float) -> Tensor:
    """Return this micro-batch's share (scalar) of the step's loss: sum of weighted row losses / global weight.

    The sum of the shares over micro-batches and ranks is the weighted mean over the step's rows,
    however they were cut. Rows of weight 0 give 0 even where their loss is not finite.
    """
    weight = weight.to(row_losses.dtype)
    # `where`, not a product alone: 0 * inf is not 0. The graph stays whole, so a spare row gives zero gradients.
    weighted = torch.where(weight > 0, weight * row_losses, 0.0)
    return weighted.sum() / global_weight
