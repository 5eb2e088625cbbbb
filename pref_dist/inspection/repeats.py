"""What stands more than once: pairs, prompts, and rows of the test file.

A pair is a prompt and two responses; its hash does not see which response is A, `is_mirrored` does.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pref_dist.data.duplicates import find_contradictions, find_duplicate_pairs, find_shared
from pref_dist.inspection.statistics import Bools, Floats

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Repeats:
    """Counts of rows; a repeat is a row whose like stands further up."""

    identical_responses: int  # rows whose A is B, in every turn
    exact_repeats: int  # prompt, A, B and label are those of an earlier row
    swapped_repeats: int  # so, with A and B exchanged, in the label too
    contradicting_pairs: int  # whose rows have different labels, after exchange where A and B are exchanged
    contradicting_rows: int  # the rows of those pairs
    distinct_prompts: int  # up to case, white space and punctuation
    rows_sharing_prompts: int  # rows whose prompt is another row's too
    most_rows_of_a_prompt: int


@dataclass(frozen=True)
class SharedWithTest:
    """How a test file overlaps with this one."""

    num_rows: int  # usable ones of the test file
    rows_in_train: int  # whose pair stands here, in either order of the responses
    prompts_in_train: int  # whose prompt stands here, those rows included


def count_repeats(pairs: Hashes, is_mirrored: Bools, targets: Floats, prompts: Hashes, is_identical: Bools) -> Repeats:
    """Count over at least one row; `targets` are (R, 3), NaN where a row has no label."""
    repeats = find_duplicate_pairs(pairs, is_mirrored, targets)
    _, firsts, places = np.unique(pairs, return_index=True, return_inverse=True)
    is_swapped = is_mirrored[repeats] != is_mirrored[firsts[places[repeats]]]
    contradicting = find_contradictions(pairs, is_mirrored, targets)
    _, rows_of_prompt = np.unique(prompts, return_counts=True)
    return Repeats(
        identical_responses=int(is_identical.sum()),
        exact_repeats=int((~is_swapped).sum()),
        swapped_repeats=int(is_swapped.sum()),
        contradicting_pairs=len(np.unique(pairs[contradicting])),
        contradicting_rows=len(contradicting),
        distinct_prompts=len(rows_of_prompt),
        rows_sharing_prompts=int(rows_of_prompt[rows_of_prompt > 1].sum()),
        most_rows_of_a_prompt=int(rows_of_prompt.max()),
    )


def count_shared(pairs: Hashes, prompts: Hashes, test_pairs: Hashes, test_prompts: Hashes) -> SharedWithTest:
    return SharedWithTest(
        num_rows=len(test_pairs),
        rows_in_train=len(find_shared(test_pairs, pairs)),
        prompts_in_train=len(find_shared(test_prompts, prompts)),
    )
