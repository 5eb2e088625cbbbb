"""The inspection as one page that needs no network: figures, pictures and the first rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from pref_dist import __version__
from pref_dist.data.rows import Row, Target
from pref_dist.files import StrPath, as_path, write_text
from pref_dist.inspection.charts import build_difference_picture, build_length_pictures
from pref_dist.inspection.describe import Inspection
from pref_dist.inspection.notes import list_notes, render_count
from pref_dist.inspection.problems import list_problems
from pref_dist.inspection.ratings import ModelRecord
from pref_dist.labels import CLASSES
from pref_dist.report.templates import open_templates

NUM_MODELS_SHOWN = 20  # the others stand in a part that opens
PREVIEW_CHARACTERS = 3000  # of one text
PREVIEW_TURNS = 4
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class ShownText:
    """The start of a text, and how long all of it is."""

    text: str
    num_characters: int

    @property
    def is_cut(self) -> bool:
        return self.num_characters > len(self.text)


@dataclass(frozen=True)
class ShownRow:
    row: int
    id: str
    outcome: str | None  # A, B, tie, or their probabilities; None without a label
    models: tuple[str, str] | None
    turns: list[tuple[ShownText, ...]]  # prompt, A, B of each of the first
    num_turns: int


@dataclass(frozen=True)
class ModelGroup:
    """Models whose ratings compare. shown: the first of them; rest: the others."""

    number: int | None  # None: without a row against another model
    shown: list[ModelRecord]
    rest: list[ModelRecord]


@dataclass(frozen=True)
class RatingScale:
    """The range of all intervals, for the bars of the table."""

    low: float
    high: float

    def place(self, rating: float) -> float:
        """Return where a rating stands, in per cent of the width."""
        return 100.0 * (rating - self.low) / max(1e-9, self.high - self.low)


def write_page(inspection: Inspection, out: StrPath | None = None) -> Path:
    """Write the page and return where it is: `out` if that is an HTML file, else in the folder `out`, else here."""
    path = find_page(inspection.data.path, as_path(out))
    write_text(path, render_page(inspection))
    return path


def find_page(data: Path, out: Path | None) -> Path:
    if out is not None and out.suffix.lower() in PAGE_SUFFIXES:
        return out
    # Of a pattern or a folder too, the name must be one that every file system takes.
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in data.name.split(".")[0])
    return (out or Path()) / f"{name or 'data'}_inspection.html"


def render_page(inspection: Inspection) -> str:
    """Return the page as HTML. Text from the data is escaped, whatever it holds."""
    labels = inspection.labels
    models = [] if labels is None else labels.models
    template = open_page_templates().get_template("inspection.html.jinja")
    return template.render(
        inspection=inspection,
        data=inspection.data,
        labels=labels,
        notes=list_notes(inspection),
        problems=list_problems(inspection.data),
        preview=[show_row(row) for row in inspection.data.preview],
        pictures=build_length_pictures(inspection),
        difference=build_difference_picture(labels) if labels else None,
        models=group_models(models),
        scale=build_scale(models),
        version=__version__,
    )


def open_page_templates() -> jinja2.Environment:
    here = Path(__file__).parent
    templates = open_templates(here, here.parent / "report")
    templates.filters |= {"amount": render_count, "plural": plural}
    return templates


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def show_row(row: Row) -> ShownRow:
    turns = [tuple(cut_text(text) for text in turn) for turn in row.turns[:PREVIEW_TURNS]]
    return ShownRow(row.row, row.id, name_outcome(row.target), row.models, turns, len(row.turns))


def cut_text(text: str) -> ShownText:
    return ShownText(text[:PREVIEW_CHARACTERS], len(text))


def name_outcome(target: Target | None) -> str | None:
    if target is None:
        return None
    if max(target) == 1.0:
        return CLASSES[target.index(1.0)]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(CLASSES, target, strict=True))


def group_models(models: Sequence[ModelRecord]) -> list[ModelGroup]:
    """Return the models by the groups in which ratings compare, those that have none last."""
    numbers = dict.fromkeys(model.group for model in models)
    ordered = sorted(numbers, key=lambda number: (number is None, number))
    return [build_group(number, [model for model in models if model.group == number]) for number in ordered]


def build_group(number: int | None, models: list[ModelRecord]) -> ModelGroup:
    # A part that opens for one or two more would be longer than they are.
    num_shown = NUM_MODELS_SHOWN if len(models) > NUM_MODELS_SHOWN + 2 else len(models)
    return ModelGroup(number, models[:num_shown], models[num_shown:])


def build_scale(models: Sequence[ModelRecord]) -> RatingScale | None:
    lows = [model.low for model in models if model.low is not None]
    highs = [model.high for model in models if model.high is not None]
    return RatingScale(min(lows), max(highs)) if lows else None
