"""What stands out in a data set, as sentences: the figures that somebody should see before training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pref_dist.inspection.describe import Inspection, LabelFigures
from pref_dist.inspection.statistics import Outcomes, Share

RARE_CLASS = 0.1
USUAL_TOKEN_LIMIT = 512

Weight = Literal["bad", "watch", "fine"]


@dataclass(frozen=True)
class Note:
    """weight: `bad` should be mended, `watch` be known, `fine` was looked for and is not there."""

    weight: Weight
    text: str


def list_notes(inspection: Inspection) -> list[Note]:
    """Return all notes, the weightiest first."""
    notes = [*note_rows(inspection), *note_repeats(inspection), *note_labels(inspection), *note_lengths(inspection)]
    order = ("bad", "watch", "fine")
    return sorted(notes, key=lambda note: order.index(note.weight))


def note_rows(inspection: Inspection) -> Iterator[Note]:
    data = inspection.data
    if data.set_aside:
        share = percent(len(data.set_aside) / data.num_rows)
        yield Note("bad", f"Not usable, so set aside: {rows(len(data.set_aside))} ({share}).")
    else:
        yield Note("fine", "Every row passes its checks.")
    num_empty = sum(inspection.missing_turns.values())
    if num_empty:
        turns = "1 turn of usable rows has" if num_empty == 1 else f"{num_empty:,} turns of usable rows have"
        yield Note("watch", f"{turns} no text.")


def note_repeats(inspection: Inspection) -> Iterator[Note]:
    repeats, test = inspection.repeats, inspection.test
    if test is not None and test.rows_in_train:
        share = percent(test.rows_in_train / test.num_rows)
        yield Note("bad", f"Test rows that stand here too: {test.rows_in_train:,} of {test.num_rows:,} ({share}).")
    elif test is not None:
        yield Note("fine", "No test row stands here.")
    if test is not None and test.prompts_in_train > test.rows_in_train:
        yield Note("watch", f"Test rows whose prompt stands here: {test.prompts_in_train:,} of {test.num_rows:,}.")
    if repeats.contradicting_rows:
        pairs = f"{repeats.contradicting_pairs:,} pair{'' if repeats.contradicting_pairs == 1 else 's'}"
        yield Note("bad", f"Same texts, other label: {rows(repeats.contradicting_rows)} of {pairs}.")
    num_repeats = repeats.exact_repeats + repeats.swapped_repeats
    if num_repeats:
        swapped = f", {repeats.swapped_repeats:,} of them with A and B exchanged" if repeats.swapped_repeats else ""
        yield Note("watch", f"Repeats of an earlier row: {num_repeats:,}{swapped}.")
    if not num_repeats and not repeats.contradicting_rows:
        yield Note("fine", "No pair of responses to a prompt stands twice.")
    if repeats.rows_sharing_prompts:
        share = percent(repeats.rows_sharing_prompts / inspection.num_usable)
        advice = "hold out whole prompts, not rows (the default split does)"
        yield Note("watch", f"{share} of rows share their prompt with another: {advice}.")


def note_labels(inspection: Inspection) -> Iterator[Note]:
    labels = inspection.labels
    if labels is None:
        yield Note("watch", "The rows have no labels, so nothing is said about who wins.")
        return
    rare = [
        f"{name} {percent(found.share)}" for name, found in labels.classes.items() if (found.share or 0) < RARE_CLASS
    ]
    if rare:
        yield Note("watch", f"Rare outcomes: {', '.join(rare)} of labelled rows.")
    yield from note_bias("The longer response", "Length", labels.longer)
    yield from note_bias("A, the response shown first,", "Position", labels.position)
    yield from note_models(labels)


def note_bias(who: str, what: str, outcomes: Outcomes) -> Iterator[Note]:
    rate = outcomes.win_rate
    if rate.share is None:
        return
    how = f"{who} wins {percent(rate.share)} of {decided(rate)} ({render_interval(rate)})."
    if rate.holds(0.5):
        yield Note("fine", f"{how} {what} alone tells nothing that is beyond chance.")
    else:
        yield Note("watch", f"{how} {what} alone tells something about the label.")


def note_models(labels: LabelFigures) -> Iterator[Note]:
    num_groups = len({model.group for model in labels.models if model.group is not None})
    if num_groups > 1:
        yield Note(
            "watch", f"The models fall into {num_groups} groups that never meet: ratings compare inside one only."
        )


def note_lengths(inspection: Inspection) -> Iterator[Note]:
    num_multi = sum(num_rows for turns, num_rows in inspection.turns.items() if turns > 1)
    if num_multi:
        share = percent(num_multi / inspection.num_usable)
        yield Note("watch", f"{share} of rows have more than one turn, up to {max(inspection.turns)}.")
    fits = (inspection.fitting or {}).get(USUAL_TOKEN_LIMIT)
    if fits is not None and fits.share is not None and fits.count < fits.total:
        share = percent(1 - fits.share)
        yield Note(
            "watch", f"{share} of rows hold more than {USUAL_TOKEN_LIMIT} tokens of text: cut there, or read more."
        )


def rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def decided(rate: Share) -> str:
    return f"{render_count(rate.total)} decided rows"


def render_count(value: float) -> str:
    """Whole where it is; sums of soft labels need not be."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def render_interval(found: Share) -> str:
    if found.low is None or found.high is None:
        return "no row"
    return f"95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %"
