"""Rows whose true probabilities are known, for tests of what is said about them."""

import numpy as np

from pref_dist.metrics import probabilities


def draw_logits(generator, num_rows, spread=0.6):
    return generator.normal(0, spread, (num_rows, 3))


def draw_labels(generator, logits):
    """Return a label (N,) for each row, drawn by the probabilities of its logits."""
    cumulated = np.cumsum(probabilities(logits), axis=1)
    return (generator.random(len(logits))[:, None] > cumulated).sum(axis=1).clip(max=2)


def draw_rows(generator, num_rows, spread=0.6):
    """Return logits (N, 3), one-hot targets (N, 3) drawn by them, and a prompt (N,) for each two rows."""
    logits = draw_logits(generator, num_rows, spread)
    return logits, np.eye(3)[draw_labels(generator, logits)], np.arange(num_rows, dtype=np.uint64) // 2
