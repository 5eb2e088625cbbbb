"""How sure a figure is: 95 % intervals by drawing whole prompts again, with replacement.

Rows of one prompt are not independent, so prompts are the unit (cluster bootstrap, Davison and Hinkley 1997,
section 3.8). The same rows and seed give the same interval. With one prompt nothing can be drawn that differs: there
is no interval, which is None here and null in a file.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]
Interval = tuple[float, float]

NUM_RESAMPLES = 1000
FEWEST_RESAMPLES = 100
MAX_ROWS_DRAWN = 2e8  # by a statistic that has to look at all rows again for each resample
DRAWS_AT_ONCE = 2**18  # 2 MB of them
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
    intervals = bootstrap_means(values[:, None], groups, seed)
    return None if intervals is None else intervals[0]


def bootstrap_means(values: Array, groups: Groups, seed: int) -> list[Interval] | None:
    """Return the intervals of the means of the columns of `values` (N, K), all from the same 1,000 resamples.

    Sums by prompt are all that a mean needs, so that memory is that of the prompts.
    """
    prompts = number_prompts(groups)
    if prompts.number < 2:
        return None
    columns = [*values.T, np.ones(len(values))]
    sums = np.stack([np.bincount(prompts.places, weights=column) for column in columns], axis=1)
    drawn = np.concatenate([counts @ sums for counts in draw_counts(prompts.number, seed, NUM_RESAMPLES)])
    low, high = np.percentile(drawn[:, :-1] / drawn[:, -1:], INTERVAL, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def bootstrap_statistics(measure: Callable[[Array], Array], groups: Groups, seed: int) -> Array | None:
    """Return what `measure` says of each resample, (resamples, K); None with one prompt.

    `measure` takes how often each row was drawn, (N,) float64, and returns K figures, NaN where one is not defined.
    """
    prompts = number_prompts(groups)
    if prompts.number < 2:
        return None
    draws = draw_counts(prompts.number, seed, count_resamples(len(groups)))
    return np.stack([measure(counts[prompts.places]) for several in draws for counts in several])


def count_resamples(num_rows: int) -> int:
    """Return 1,000 up to 200,000 rows, then as many as draw 200 million rows together, but at least 100."""
    return int(np.clip(MAX_ROWS_DRAWN / num_rows, FEWEST_RESAMPLES, NUM_RESAMPLES))


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
