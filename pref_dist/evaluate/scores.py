"""What a model's probabilities are worth on labelled rows: every metric, with how sure it is.

Targets may be soft. Log loss, Brier score and calibration error take them as they are, and so do the shares of
classes; accuracy, F1, AUC and the confusion matrix take their most likely class as the real one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import draw_means, draw_statistics, number_prompts, percentile_interval
from pref_dist.class_metrics import (
    area_under_curve,
    class_f1,
    class_precision,
    class_recall,
    count_confusion,
    mean_of_known,
)
from pref_dist.labels import CLASSES, NUM_CLASSES
from pref_dist.metrics import check_scored, probabilities, row_brier_scores, row_log_losses, score_logits
from pref_dist.ranking import rank_rows
from pref_dist.reliability import ERROR_BINS, bin_rows, calibration_error, calibration_error_interval

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]

CELLS = list(np.ndindex(NUM_CLASSES, NUM_CLASSES))  # of the confusion matrix


def describe_scores(logits: Array, targets: Array, groups: Groups, seed: int = 0) -> dict[str, Any]:
    """Return all metrics of logits (N, 3), float64, against targets (N, 3), whose prompts are `groups` (N,).

    log_loss (nats), accuracy, num_rows: as `score_logits`. brier: of all classes, 0 to 2 (`row_brier_scores`).
    macro_f1, auc: means over the classes, without those for which there is none (null where that is all). ece: of
    the predicted class. intervals: 95 %, by drawing prompts again; null with one prompt. classes: see
    `describe_classes`. confusion: counts, rows are the real class, columns the predicted one.
    Raises DataError for no rows, other shapes, or values that are not finite.
    """
    check_scored(logits, targets, groups)
    real, predicted = targets.argmax(axis=1), logits.argmax(axis=1)
    confusion = count_confusion(real, predicted)
    return {
        **score_logits(logits, targets),
        "num_prompts": number_prompts(groups).number,
        "macro_f1": or_null(mean_of_known(class_f1(confusion))),
        "brier": float(row_brier_scores(logits, targets).mean()),
        "ece": calibration_error(np.array([column.mean() for column in split_gaps(logits, targets)])),
        "auc": or_null(prepare_mean_area(logits, real)(np.ones(len(logits)))[0]),
        "intervals": find_intervals(logits, targets, groups, seed),
        "classes": describe_classes(logits, targets),
        "confusion": confusion.astype(int).tolist(),
    }


def split_gaps(logits: Array, targets: Array) -> list[Array]:
    """Return a column (N,) for each bin of the calibration error: how far its rows' predicted class is off, else 0."""
    rows, predicted = np.arange(len(logits)), logits.argmax(axis=1)
    confidences = probabilities(logits)[rows, predicted]
    bins, gaps = bin_rows(confidences, ERROR_BINS), targets[rows, predicted] - confidences
    return [np.where(bins == number, gaps, 0.0) for number in range(ERROR_BINS)]


def prepare_mean_area(logits: Array, real: NDArray[np.intp]) -> Callable[[Array], Array]:
    """Return what gives the mean AUC (1,) for weights of rows (N,); the ranking, which is the work, is done once."""
    rankings = [rank_rows(chances) for chances in probabilities(logits).T]

    def measure(weights: Array) -> Array:
        areas = [area_under_curve(ranking, real == place, weights) for place, ranking in enumerate(rankings)]
        return mean_of_known(np.array([areas]))

    return measure


def find_intervals(logits: Array, targets: Array, groups: Groups, seed: int) -> dict[str, list[float] | None]:
    """Return the interval of each metric."""
    real, predicted = targets.argmax(axis=1), logits.argmax(axis=1)
    cells = [((real == row) & (predicted == column)).astype(np.float64) for row, column in CELLS]
    losses, gaps = [row_log_losses(logits, targets), row_brier_scores(logits, targets)], split_gaps(logits, targets)
    means = draw_means([*losses, *cells, *gaps], groups, seed)
    areas = draw_statistics(prepare_mean_area(logits, real), groups, seed)
    if means is None or areas is None:
        return dict.fromkeys(("log_loss", "accuracy", "macro_f1", "brier", "ece", "auc"))
    confusions = means[:, 2 : 2 + len(CELLS)].reshape(-1, NUM_CLASSES, NUM_CLASSES)
    found = {
        "log_loss": percentile_interval(means[:, 0]),
        "accuracy": percentile_interval(confusions.trace(axis1=1, axis2=2)),
        "macro_f1": percentile_interval(mean_of_known(class_f1(confusions))),
        "brier": percentile_interval(means[:, 1]),
        "ece": calibration_error_interval(np.array([column.mean() for column in gaps]), means[:, -len(gaps) :]),
        "auc": percentile_interval(areas[:, 0]),
    }
    return {name: None if interval is None else list(interval) for name, interval in found.items()}


def describe_classes(logits: Array, targets: Array) -> dict[str, dict[str, Any]]:
    """Return for each class {num_rows, share, mean_probability, log_loss, precision, recall, f1, auc, brier}.

    num_rows: whose real class it is. share: the targets' mean of it, which mean_probability should be near. log_loss:
    the mean of its rows, in nats. auc, brier: of the class against the rest. null: no row speaks about it.
    """
    chances, real = probabilities(logits), targets.argmax(axis=1)
    confusion = count_confusion(real, logits.argmax(axis=1))
    weights, losses = np.ones(len(logits)), row_log_losses(logits, targets)
    precision, recall, f1 = class_precision(confusion), class_recall(confusion), class_f1(confusion)
    return {
        name: {
            "num_rows": int((real == place).sum()),
            "share": float(targets[:, place].mean()),
            "mean_probability": float(chances[:, place].mean()),
            "log_loss": or_null(mean_of_known(losses[real == place])),
            "precision": or_null(precision[place]),
            "recall": or_null(recall[place]),
            "f1": or_null(f1[place]),
            "auc": or_null(area_under_curve(rank_rows(chances[:, place]), real == place, weights)),
            "brier": float(((chances[:, place] - targets[:, place]) ** 2).mean()),
        }
        for place, name in enumerate(CLASSES)
    }


def or_null(value: float | Array) -> float | None:
    """Return one number for a file; NaN, of which JSON knows nothing, becomes None."""
    return None if np.isnan(value) else float(value)
