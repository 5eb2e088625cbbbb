"""What can be had without reading: the class prior, a tree on lengths, words without their prompt.

A run that does not beat these has learnt nothing that a model is needed for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pref_dist.data.rows import Row
from pref_dist.errors import DataError
from pref_dist.labels import NUM_CLASSES
from pref_dist.metrics import score_probabilities

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# Raise it with every change of the numbers: what was kept of older ones is then never found again.
FIT_VERSION = 1
# Enough for the words that matter on 55k rows of the Arena task, which then take about a minute.
MAX_WORDS = 30_000
# Inverse strengths of the L2 penalty to choose from: where words say little, 1.0 is worse than the prior.
PENALTY_STRENGTHS = (0.03, 0.1, 0.3, 1.0)
HELD_OUT_SHARE = 0.2


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

    def score(self, rows: Sequence[Row]) -> dict[str, dict[str, float | int]]:
        """Return {baseline: {log_loss (nats), accuracy, num_rows}} on labelled rows.

        Raises DataError if there is no row, or one without a label.
        """
        targets = read_targets(rows)
        return {name: score_probabilities(probs, targets) for name, probs in self.predict(rows).items()}


def describe_fit(seed: int) -> dict[str, Any]:
    """Return all that decides the baselines besides the rows: the versions of what fits them included."""
    libraries = {name: version(name) for name in ("numpy", "scipy", "scikit-learn")}
    settings = {"max_words": MAX_WORDS, "penalties": PENALTY_STRENGTHS, "held_out_share": HELD_OUT_SHARE}
    return {"version": FIT_VERSION, "seed": seed, **settings, **libraries}


class Votes(NamedTuple):
    """What the rows say, a vote for each class that a row gives a probability: one for a hard label, weight 1."""

    places: Labels  # (V,) which row
    labels: Labels  # (V,) which class
    weights: Array  # (V,)

    def of(self, chosen: npt.NDArray[np.bool_]) -> "Votes":
        """Return the votes of the chosen rows (R,)."""
        among = chosen[self.places]
        return Votes(self.places[among], self.labels[among], self.weights[among])


def fit_baselines(train_rows: Sequence[Row], seed: int, weights: Array | None = None) -> Baselines:
    """Fit all baselines; the same rows and seed give the same numbers.

    They learn what the model learns: soft labels where there are any, and `weights` (R,) of the rows. A
    class that has no row in `train_rows` is allowed. Raises DataError if there is no row, or one without a label.
    """
    targets = read_targets([row._replace(target=row.training_target) for row in train_rows])
    places, labels = np.nonzero(targets)
    row_weights = np.ones(len(targets)) if weights is None else weights
    votes = Votes(places, labels, targets[places, labels] * row_weights[places])
    models = {
        "class_prior": (measure_lengths, fit_prior(votes)),
        "length_tree": (measure_lengths, fit_length_tree(measure_lengths(train_rows), votes, seed)),
        "tfidf_logistic": fit_tfidf_logistic(train_rows, votes, seed),
    }
    return Baselines(num_train=len(train_rows), models=models)


def fit_prior(votes: Votes) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior").fit(np.zeros((len(votes.labels), 1)), votes.labels, votes.weights)


def fit_length_tree(lengths: Array, votes: Votes, seed: int) -> Any:
    """At most 16 leaves of at least 1 % of the rows: lengths have no finer structure worth fitting."""
    from sklearn.tree import DecisionTreeClassifier

    smallest_leaf = max(20, len(votes.labels) // 100)
    tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=smallest_leaf, random_state=seed)
    return tree.fit(lengths[votes.places], votes.labels, votes.weights)


def fit_tfidf_logistic(rows: Sequence[Row], votes: Votes, seed: int) -> tuple[Callable[[Sequence[Row]], Any], Any]:
    """TF-IDF of response A minus TF-IDF of response B, then multinomial logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=MAX_WORDS, sublinear_tf=True)
    try:
        both = vectorizer.fit_transform(texts_of(rows, "response_a") + texts_of(rows, "response_b"))
    except ValueError:  # "empty vocabulary": no response has a word in it
        return measure_lengths, fit_prior(votes)

    def subtract_tfidf(rows: Sequence[Row]) -> Any:
        return vectorizer.transform(texts_of(rows, "response_a")) - vectorizer.transform(texts_of(rows, "response_b"))

    # The words of the training rows are counted once: to transform them again would double the time.
    return subtract_tfidf, fit_logistic(both[: len(rows)] - both[len(rows) :], votes, seed)


def fit_logistic(features: Any, votes: Votes, seed: int) -> Any:
    """Choose the penalty on held-out training rows, then fit on all of them."""
    num_rows = features.shape[0]
    is_held_out = np.zeros(num_rows, dtype=np.bool_)
    is_held_out[np.random.default_rng(seed).permutation(num_rows)[: round(HELD_OUT_SHARE * num_rows)]] = True
    held_out, kept = votes.of(is_held_out), votes.of(~is_held_out)
    if not len(held_out.labels):
        return fit_penalised(features, votes, PENALTY_STRENGTHS[0])
    losses = {}
    for strength in PENALTY_STRENGTHS:
        classifier = fit_penalised(features, kept, strength)
        probabilities = smooth(spread_classes(classifier, features[held_out.places]), int((~is_held_out).sum()))
        vote_losses = -np.log(probabilities[np.arange(len(held_out.labels)), held_out.labels])
        losses[strength] = float(np.average(vote_losses, weights=held_out.weights))
    return fit_penalised(features, votes, min(losses, key=losses.__getitem__))


def fit_penalised(features: Any, votes: Votes, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(votes.labels)) == 1:  # which LogisticRegression refuses
        return fit_prior(votes)
    return LogisticRegression(C=strength, max_iter=1000).fit(features[votes.places], votes.labels, votes.weights)


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
