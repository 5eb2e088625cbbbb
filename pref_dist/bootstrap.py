"""How sure a figure is: 95 % intervals by drawing whole prompts again, with replacement.

Rows of one prompt are not independent, so prompts are the unit (cluster bootstrap, Davison and Hinkley 1997,
section 3.8). The same rows and seed give the same interval. With one prompt nothing can be drawn that differs: there
is no interval, which is None here and null in a file.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]
Interval = tuple[float, float]

NUM_RESAMPLES = 1000
FEWEST_RESAMPLES = 100
# Some seconds' work each: 1,000 resamples of up to 200,000 prompts, and of 20,000 rows where all are looked at again.
MAX_DRAWS_FOR_MEANS = 2e8
MAX_DRAWS_FOR_STATISTICS = 2e7
DRAWS_AT_ONCE = 2**18  # 2 MB of them
MAX_SUMS_HELD = 2**26  # 512 MB
INTERVAL = (2.5, 97.5)  # percentiles


class Prompts(NamedTuple):
    """Which prompt each row belongs to. places: (N,) from 0 to `number` - 1, rising with the hash of the prompt."""

    places: NDArray[np.intp]
    number: int


def number_prompts(groups: Groups) -> Prompts:
    """Number the prompts of rows, whose hashes are `groups` (N,)."""
    hashes, places = np.unique(groups, return_inverse=True)
    return Prompts(places, len(hashes))


def bootstrap_mean(values: Array, groups: Groups, seed: int) -> Interval | None:
    """Return the interval of the mean of `values` (N,); of a paired difference, give the rows' differences."""
    drawn = draw_means([values], groups, seed)
    return None if drawn is None else percentile_interval(drawn[:, 0])


def draw_means(columns: Sequence[Array], groups: Groups, seed: int) -> Array | None:
    """Return the means of K columns, (N,) each, over the rows of each resample: (resamples, K); None with one prompt.

    A mean needs no more than sums by prompt, and all columns see the same draws. Memory is bounded: some columns
    are drawn after the others where there are many prompts.
    """
    prompts = number_prompts(groups)
    if prompts.number < 2:
        return None
    at_once = max(1, MAX_SUMS_HELD // prompts.number)
    parts = [columns[start : start + at_once] for start in range(0, len(columns), at_once)]
    return np.concatenate([draw_few_means(part, prompts, seed) for part in parts], axis=1)


def draw_few_means(columns: Sequence[Array], prompts: Prompts, seed: int) -> Array:
    weights = [*columns, np.ones(len(prompts.places))]
    sums = np.stack([np.bincount(prompts.places, weights=column) for column in weights], axis=1)
    num_resamples = count_resamples(prompts.number, MAX_DRAWS_FOR_MEANS)
    drawn = np.concatenate([counts @ sums for counts in draw_counts(prompts.number, seed, num_resamples)])
    return np.asarray(drawn[:, :-1] / drawn[:, -1:])


def draw_statistics(measure: Callable[[Array], Array], groups: Groups, seed: int) -> Array | None:
    """Return what `measure` says of each resample, (resamples, K); None with one prompt.

    `measure` takes how often each row was drawn, (N,) float64, and returns K figures, NaN where one is not defined.
    """
    prompts = number_prompts(groups)
    if prompts.number < 2:
        return None
    draws = draw_counts(prompts.number, seed, count_resamples(len(groups), MAX_DRAWS_FOR_STATISTICS))
    return np.stack([measure(counts[prompts.places]) for several in draws for counts in several])


def count_resamples(size: int, max_draws: float) -> int:
    """Return 1,000, or as many as together draw `max_draws` times from `size`, but at least 100."""
    return int(np.clip(max_draws / size, FEWEST_RESAMPLES, NUM_RESAMPLES))


def draw_counts(num_prompts: int, seed: int, num_resamples: int) -> Iterator[Array]:
    """Yield how often each prompt is drawn, (R, num_prompts) for R resamples at a time; a row sums to `num_prompts`."""
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // num_prompts)
    for start in range(0, num_resamples, at_once):
        shape = min(at_once, num_resamples - start), num_prompts
        places = generator.integers(num_prompts, size=shape) + num_prompts * np.arange(shape[0])[:, None]
        yield np.bincount(places.ravel(), minlength=places.size).reshape(shape).astype(np.float64)


def percentile_interval(drawn: Array) -> Interval | None:
    """Return the interval of a figure from its values (resamples,), without those where it was not defined."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None
    low, high = np.percentile(known, INTERVAL)
    return float(low), float(high)
