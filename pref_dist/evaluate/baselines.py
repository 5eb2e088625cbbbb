"""What can be had without reading: the class prior, a tree on lengths, words without their prompt.

A run that does not beat these has learnt nothing that a model is needed for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pref_dist.data.validate import Row
from pref_dist.errors import DataError
from pref_dist.labels import NUM_CLASSES

Array = npt.NDArray[np.float64]

# Enough for the words that matter on 55k rows of the Arena task, which then take about a minute.
MAX_WORDS = 30_000


@dataclass(frozen=True)
class Baselines:
    """Fitted baselines: `class_prior`, `length_tree` and `tfidf_logistic`."""

    num_train: int
    models: dict[str, tuple[Callable[[Sequence[Row]], Any], Any]]  # features of rows, classifier

    def predict(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Return each baseline's probabilities (R, 3), float64, rows summing to 1, none of them 0."""
        return {
            name: smooth(spread_classes(classifier, features(rows)), self.num_train)
            for name, (features, classifier) in self.models.items()
        }

    def score(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Return {baseline: {"log_loss": nats a row, "accuracy": share}} on labelled rows.

        Raises DataError if there is no row, or one without a label.
        """
        targets = read_targets(rows)
        return {name: score_probabilities(probs, targets) for name, probs in self.predict(rows).items()}


def fit_baselines(train_rows: Sequence[Row], seed: int) -> Baselines:
    """Fit all baselines; the same rows and seed give the same numbers.

    A class that has no row in `train_rows` is allowed. Raises DataError if there is no row, or one
    without a label.
    """
    labels = read_targets(train_rows).argmax(axis=1)
    models = {
        "class_prior": (measure_lengths, fit_prior(labels)),
        "length_tree": (measure_lengths, fit_length_tree(measure_lengths(train_rows), labels, seed)),
        "tfidf_logistic": fit_tfidf_logistic(train_rows, labels, seed),
    }
    return Baselines(num_train=len(train_rows), models=models)


def fit_prior(labels: npt.NDArray[np.int64]) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior").fit(np.zeros((len(labels), 1)), labels)


def fit_length_tree(lengths: Array, labels: npt.NDArray[np.int64], seed: int) -> Any:
    """At most 16 leaves of at least 1 % of the rows: lengths have no finer structure worth fitting."""
    from sklearn.tree import DecisionTreeClassifier

    smallest_leaf = max(20, len(labels) // 100)
    tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=smallest_leaf, random_state=seed)
    return tree.fit(lengths, labels)


def fit_tfidf_logistic(
    rows: Sequence[Row], labels: npt.NDArray[np.int64], seed: int
) -> tuple[Callable[[Sequence[Row]], Any], Any]:
    """TF-IDF of response A minus TF-IDF of response B, then multinomial logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(max_features=MAX_WORDS, sublinear_tf=True)
    try:
        vectorizer.fit(texts_of(rows, "response_a") + texts_of(rows, "response_b"))
    except ValueError:  # "empty vocabulary": no response has a word in it
        return measure_lengths, fit_prior(labels)

    def subtract_tfidf(rows: Sequence[Row]) -> Any:
        return vectorizer.transform(texts_of(rows, "response_a")) - vectorizer.transform(texts_of(rows, "response_b"))

    if len(np.unique(labels)) == 1:  # which LogisticRegression refuses
        return subtract_tfidf, fit_prior(labels)
    return subtract_tfidf, LogisticRegression(max_iter=1000, random_state=seed).fit(subtract_tfidf(rows), labels)


def measure_lengths(rows: Sequence[Row]) -> Array:
    """Return (R, 4): characters of response A minus those of B, of A, of B, and of the prompt."""
    columns = [
        [sum(map(len, texts)) for texts in (column_of(row, name) for row in rows)]
        for name in ("response_a", "response_b", "prompt")
    ]
    side_a, side_b, prompt = np.array(columns, dtype=np.float64).reshape(3, len(rows))
    return np.stack([side_a - side_b, side_a, side_b, prompt], axis=1)


def texts_of(rows: Sequence[Row], column: str) -> list[str]:
    return ["\n".join(column_of(row, column)) for row in rows]


def column_of(row: Row, column: str) -> list[str]:
    return [getattr(turn, column) for turn in row.turns]


def read_targets(rows: Sequence[Row]) -> Array:
    targets = [row.target for row in rows if row.target is not None]
    if not targets or len(targets) < len(rows):
        num_missing = len(rows) - len(targets)
        raise DataError(f"Baselines need labelled rows: {num_missing:,} of {len(rows):,} rows have no winner.")
    return np.array(targets, dtype=np.float64)


def spread_classes(classifier: Any, features: Any) -> Array:
    """Return (R, 3): the classifier's probabilities, with 0 for a class that it has never seen."""
    probabilities = np.zeros((features.shape[0], NUM_CLASSES))
    probabilities[:, classifier.classes_] = classifier.predict_proba(features)
    return probabilities


def smooth(probabilities: Array, num_train: int) -> Array:
    """Mix in one row of each class (Laplace's rule), so that a certain error costs about ln(num_train)."""
    return (num_train * probabilities + 1.0) / (num_train + NUM_CLASSES)


def score_probabilities(probabilities: Array, targets: Array) -> dict[str, float]:
    right = probabilities.argmax(axis=1) == targets.argmax(axis=1)
    log_loss = -(targets * np.log(probabilities)).sum(axis=1).mean()
    return {"log_loss": float(log_loss), "accuracy": float(right.mean())}
