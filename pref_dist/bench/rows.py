"""The rows of a measurement: a seeded sample of a data file, written as files that every pipeline reads alike."""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pref_dist.data.records import allow_long_cells
from pref_dist.errors import DataError
from pref_dist.labels import ID_COLUMN, TEXT_COLUMNS, WINNER_COLUMNS

NUM_VALID_ROWS = 8  # our run evaluates at its end, which is not timed
NEEDED = (ID_COLUMN, *TEXT_COLUMNS, *WINNER_COLUMNS)

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a labelled CSV file, their cells as they stand there.

    Raises DataError if it cannot be read, or has not the columns that the peers' templates need.
    """
    allow_long_cells()
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} lacks the columns {', '.join(missing)}. The peers read labelled CSV files "
                    f"with {', '.join(NEEDED)} alone: convert it. Without --data the rows are synthetic."
                )
            return [{name: row[name] or "" for name in NEEDED} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}. Check the path.") from error


def draw_rows(data: Path | None, count: int, folder: Path, seed: int) -> list[Row]:
    """Return `count` rows of `data` (None: of a synthetic sample), chosen and ordered by `seed` alone.

    Raises DataError if the file has fewer.
    """
    if data is None:
        from pref_dist.data.synthetic import write_sample

        write_sample(folder / "sample", num_train=count, num_test=1, seed=seed)
        data = folder / "sample" / "train.csv"
    rows = read_rows(data)
    if len(rows) < count:
        raise DataError(
            f"{data} has {len(rows):,} rows, and {count:,} are needed. Lower --steps, --rows-per-step or --rows."
        )
    return random.Random(seed).sample(rows, count)


def repeat_rows(rows: Sequence[Row], count: int) -> Iterator[Row]:
    """Yield `count` rows: the given ones over and over, each time with other ids and another prompt's beginning."""
    for number in range(count):
        row = rows[number % len(rows)]
        turn = number // len(rows)
        yield row if turn == 0 else {**row, ID_COLUMN: f"{row[ID_COLUMN]}-{turn}", "prompt": mark(row["prompt"], turn)}


def mark(prompt: str, turn: int) -> str:
    """Put the turn's number before a prompt, a string or a JSON list of strings, so that no two rows are alike."""
    try:
        texts = json.loads(prompt)
    except ValueError:
        return f"{turn} {prompt}"
    if not isinstance(texts, list) or not texts:
        return f"{turn} {prompt}"
    return json.dumps([f"{turn} {texts[0]}", *texts[1:]], ensure_ascii=False)


def write_rows(path: Path, rows: Sequence[Row] | Iterator[Row]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, NEEDED)
        writer.writeheader()
        writer.writerows(rows)
    return path


def stretch_rows(rows: Sequence[Row], count: int, num_words: int) -> list[Row]:
    """Return `count` rows whose responses have at least `num_words` words each, made of the given rows' words."""
    words = " ".join(f"{row['response_a']} {row['response_b']}" for row in rows).split()
    source = words * (-(-num_words * 2 // len(words)) + 1)
    stretched = []
    for number in range(count):
        start = (number * 97) % len(words)  # other words for every row
        parts = [" ".join(source[start + part : start + part + num_words]) for part in (0, 1)]
        given = rows[number % len(rows)]
        stretched.append(
            {**given, ID_COLUMN: f"stretched-{number}", "prompt": f"question {number}",
             "response_a": parts[0], "response_b": f"other {parts[1]}"}
        )  # fmt: skip
    return stretched
