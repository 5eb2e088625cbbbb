"""Ratings of the models that wrote the responses: Bradley-Terry, with 95 % intervals.

P(i beats j) = 1 / (1 + exp(s_j - s_i)), fitted as a logistic regression without intercept on a design
of +1 for A's model and -1 for B's; a tie is half a win each way (Bradley and Terry 1952; so does
Chatbot Arena). The rating is 1000 + 400 / ln(10) * s, so 400 points are odds of 10 to 1, and the mean
of all models that are linked by comparisons is 1000.
"""

import math
from dataclasses import dataclass

import numpy as np

from pref_dist.inspection.statistics import Bools, Floats, Ints, Outcomes, count_outcomes, seen_from
from pref_dist.wilson import Z_95

POINTS = 400.0 / math.log(10.0)  # of the rating in one unit of s
MEAN_RATING = 1000.0
# A weak prior keeps a model that never lost finite; a hundred decided rows move it by about a point.
PRIOR_DEVIATION = 1000.0 / POINTS
MAX_RATED_MODELS = 200  # 20 thousand pairs, whose design is a dense matrix


@dataclass(frozen=True)
class ModelRecord:
    """One model: how it fared, how long it writes, its rating. `group`: only models of one group compare.

    Rows of a model against itself are in `num_rows` and tell nothing else; the rating is None
    where there is no other row.
    """

    name: str
    num_rows: int
    outcomes: Outcomes
    mean_length: float
    rating: float | None
    low: float | None
    high: float | None
    group: int | None


def rate_models(names: list[str], models: Ints, targets: Floats, lengths: Ints) -> list[ModelRecord]:
    """Return all models, the best first. `models` and `lengths` are (R, 2): of A and of B.

    Beyond MAX_RATED_MODELS the less frequent ones are not rated.
    """
    counts = np.bincount(models.ravel(), minlength=len(names))
    is_rated = np.zeros(len(names), dtype=np.bool_)
    is_rated[np.argsort(-counts, kind="stable")[:MAX_RATED_MODELS]] = True
    used = is_rated[models].all(axis=1) & (models[:, 0] != models[:, 1])
    ratings = fit_ratings(len(names), models[used], targets[used])
    records = [
        build_record(place, name, models, targets, lengths, ratings)
        for place, name in enumerate(names)
        if counts[place]
    ]
    return sorted(records, key=lambda record: (record.rating is None, -(record.rating or 0.0), record.name))


def build_record(
    place: int, name: str, models: Ints, targets: Floats, lengths: Ints, ratings: dict[int, tuple[float, float, int]]
) -> ModelRecord:
    is_side = models == place
    mine = is_side.any(axis=1)
    against_others = mine & ~is_side.all(axis=1)
    is_b: Bools = is_side[against_others, 1]
    rating, reach, group = ratings.get(place, (None, None, None))
    return ModelRecord(
        name=name,
        num_rows=int(mine.sum()),
        outcomes=count_outcomes(seen_from(targets[against_others], is_b)),
        mean_length=float(lengths[is_side].mean()),
        rating=rating,
        low=None if rating is None or reach is None else rating - reach,
        high=None if rating is None or reach is None else rating + reach,
        group=group,
    )


def fit_ratings(num_models: int, models: Ints, targets: Floats) -> dict[int, tuple[float, float, int]]:
    """Return {model: (rating, reach of its 95 % interval, group)} of the models that stand in a row.

    The interval is Laplace's: the inverse of Fisher's information with that of the prior. It takes rows
    as independent. Rows must not compare a model with itself.
    """
    if not len(models):
        return {}
    known, places = np.unique(models, return_inverse=True)
    pairs, wins = sum_pairs(places.reshape(models.shape), targets, len(known))
    strengths = fit_strengths(pairs, wins, len(known))
    groups = find_groups(pairs, len(known))
    centre = np.eye(len(known)) - (groups[:, None] == groups) / np.bincount(groups)[groups]
    deviations = np.sqrt(np.diag(centre @ invert_information(pairs, wins, strengths) @ centre.T))
    ratings = MEAN_RATING + POINTS * (centre @ strengths)
    reach = Z_95 * POINTS * deviations
    return {
        int(model): (float(ratings[place]), float(reach[place]), int(groups[place]))
        for place, model in enumerate(known)
    }


def sum_pairs(models: Ints, targets: Floats, num_models: int) -> tuple[Ints, Floats]:
    """Return (P, 2) pairs of models with first < second, and (P, 2) wins of each over the other."""
    is_swapped = models[:, 0] > models[:, 1]
    seen = seen_from(targets, is_swapped)
    ordered = np.sort(models, axis=1)
    keys, places = np.unique(ordered[:, 0] * num_models + ordered[:, 1], return_inverse=True)
    wins = np.stack(
        [np.bincount(places, seen[:, side] + 0.5 * seen[:, 2], minlength=len(keys)) for side in (0, 1)], axis=1
    )
    return np.stack([keys // num_models, keys % num_models], axis=1), np.asarray(wins, dtype=np.float64)


def fit_strengths(pairs: Ints, wins: Floats, num_models: int) -> Floats:
    """Return s of each model: the most probable one under the prior N(0, PRIOR_DEVIATION²)."""
    from sklearn.linear_model import LogisticRegression  # a second of import, and only labelled models need it

    design = build_design(pairs, num_models)
    # Both ways round, since the classifier wants rows of both classes even where one model won them all.
    rows = design[np.repeat(np.arange(len(pairs)), 2)]
    classifier = LogisticRegression(
        C=PRIOR_DEVIATION**2, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    classifier.fit(rows, np.tile([1, 0], len(pairs)), sample_weight=wins.ravel())
    strengths: Floats = classifier.coef_[0]
    return strengths


def build_design(pairs: Ints, num_models: int) -> Floats:
    """Return (P, models): +1 for the first of the pair, -1 for the second."""
    design = np.zeros((len(pairs), num_models))
    design[np.arange(len(pairs)), pairs[:, 0]] = 1.0
    design[np.arange(len(pairs)), pairs[:, 1]] = -1.0
    return design


def invert_information(pairs: Ints, wins: Floats, strengths: Floats) -> Floats:
    """Return the covariance (models, models) of the strengths."""
    chance = 1.0 / (1.0 + np.exp(strengths[pairs[:, 1]] - strengths[pairs[:, 0]]))
    weights = wins.sum(axis=1) * chance * (1.0 - chance)
    information = np.eye(len(strengths)) / PRIOR_DEVIATION**2
    first, second = pairs.T
    np.add.at(information, (first, first), weights)
    np.add.at(information, (second, second), weights)
    np.add.at(information, (first, second), -weights)
    np.add.at(information, (second, first), -weights)
    return np.asarray(np.linalg.inv(information), dtype=np.float64)


def find_groups(pairs: Ints, num_models: int) -> Ints:
    """Return for each model the number of the group that comparisons link it with; the largest is 0."""
    labels = spread_labels(pairs, num_models)
    _, labels = np.unique(labels, return_inverse=True)
    order = np.argsort(-np.bincount(labels), kind="stable")
    groups: Ints = np.argsort(order)[labels].astype(np.int64)
    return groups


def spread_labels(pairs: Ints, num_models: int) -> Ints:
    """Return for each model the lowest one that it is linked with, over however many others."""
    labels = np.arange(num_models, dtype=np.int64)
    while True:
        lowest = labels[pairs].min(axis=1)
        spread = labels.copy()
        for side in (0, 1):
            np.minimum.at(spread, pairs[:, side], lowest)
        if (spread == labels).all():
            return labels
        labels = spread
