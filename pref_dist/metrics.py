"""Log loss and accuracy from logits, in float64 on the host."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_probabilities(logits: Array) -> Array:
    """Return log softmax of logits (N, C), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def probabilities(logits: Array) -> Array:
    """Return softmax of logits (N, C), in float64; every row sums to 1."""
    return np.exp(log_probabilities(logits))


def row_log_losses(logits: Array, target: Array) -> Array:
    """Return -sum_c target * log p (N,), in nats; target (N, C) are class probabilities."""
    return np.asarray(-(target * log_probabilities(logits)).sum(axis=1))


def score_logits(logits: Array, target: Array) -> dict[str, float | int]:
    """Return log_loss (nats), accuracy (of the most likely class) and num_rows."""
    return {
        "log_loss": float(row_log_losses(logits, target).mean()),
        "accuracy": float((logits.argmax(axis=1) == target.argmax(axis=1)).mean()),
        "num_rows": len(logits),
    }


def score_probabilities(chances: Array, target: Array) -> dict[str, float | int]:
    """The same for probabilities (N, C), which are kept at least 1e-15 away from 0."""
    return score_logits(np.log(np.clip(chances, 1e-15, 1.0)), target)
