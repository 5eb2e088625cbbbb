"""`calibration.json` of a run: the temperature fitted on its held-out rows, and whether a prediction may use it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pref_dist.config.schema import EvaluateSection
from pref_dist.errors import CheckpointError
from pref_dist.files import read_json, write_json
from pref_dist.run_dir import RunDir


@dataclass(frozen=True)
class Calibration:
    """temperature: logits are divided by it. applies: whether the interval of its gain (nats a row) excludes zero.

    step, orders (EvaluateSection.orders): of the logits that it was fitted on; num_rows: how many rows these were, and
    num_learnt: how many of them the model had learnt from, or from their prompts; None where nobody knew.
    """

    temperature: float
    applies: bool
    interval: tuple[float, float] | None
    gain: float
    step: int
    orders: str
    num_rows: int
    num_learnt: int | None


class ChosenTemperature(NamedTuple):
    """temperature: 1 where none is applied. sentence: what a person is told, empty where nothing was asked for."""

    temperature: float
    is_applied: bool
    sentence: str


def describe_gain(gain: float, interval: Sequence[float] | None) -> str:
    """Return in words what a temperature does to the log loss, as in `0.0050 worse (95 % interval 0.0010 to 0.0090)`.

    gain: nats a row, above zero where it helps. The interval is that of what is said: of `worse`, it is turned round.
    """
    size, word = f"{abs(gain):.4f}", "worse" if gain < 0.0 else "better"
    if interval is None:
        return f"{size} {word} (one prompt: no interval)"
    low, high = (-interval[1], -interval[0]) if gain < 0.0 else interval
    chance = ", which may be chance" if low <= 0.0 <= high else ""
    return f"{size} {word} (95 % interval {low:.4f} to {high:.4f}{chance})"


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file whole or not at all."""
    write_json(path, asdict(calibration))


def read_calibration(path: Path) -> Calibration | None:
    """Return None where there is no file. Raises CheckpointError if it is damaged."""
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        found = Calibration(**{name: values[name] for name in Calibration.__dataclass_fields__})
        interval = None if found.interval is None else (float(found.interval[0]), float(found.interval[1]))
        if not found.temperature > 0.0:
            raise ValueError(f"the temperature is {found.temperature}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Write it again: pref-dist evaluate {path.parent}, or set "
            "evaluate.calibrate=none."
        ) from error
    return Calibration(
        float(found.temperature), bool(found.applies), interval, float(found.gain), int(found.step), found.orders,
        int(found.num_rows), None if found.num_learnt is None else int(found.num_learnt),
    )  # fmt: skip


def choose_temperature(
    run_dir: RunDir, settings: EvaluateSection, step: int, is_whole: bool = True
) -> ChosenTemperature:
    """Decide whether logits of `step`, made under `settings`, are divided by the run's temperature.

    is_whole: whether every row got the orders that `settings` ask for. Raises CheckpointError for a damaged file.
    """
    if settings.calibrate == "none":
        return ChosenTemperature(1.0, False, "")
    found = read_calibration(run_dir.calibration)
    reason = why_not(found, run_dir, settings, step, is_whole)
    if found is None or reason:
        return ChosenTemperature(1.0, False, f"{run_dir.root}: no temperature is applied: {reason}.")
    return ChosenTemperature(
        found.temperature,
        True,
        f"{run_dir.root}: temperature {found.temperature:.4f} is applied; on {found.num_rows:,} held-out rows it "
        f"made the log loss {describe_gain(found.gain, found.interval)}.",
    )


def why_not(found: Calibration | None, run_dir: RunDir, settings: EvaluateSection, step: int, is_whole: bool) -> str:
    """Say why a temperature does not count; empty if it does."""
    if found is None:
        return f"{run_dir.calibration} is not there: `pref-dist evaluate` of the run writes it, `export` then copies it"
    if not found.applies:
        return f"it is not sure to make the log loss better: {describe_gain(found.gain, found.interval)}"
    if found.step != step:
        return f"it was fitted on step {found.step}, and these are logits of step {step}"
    if found.orders != settings.orders:
        return f"it was fitted with evaluate.swap={found.orders}, and these logits are made with {settings.orders}"
    if found.num_learnt is None:
        return "nobody knows whether the model has learnt from the rows that it was fitted on"
    if found.num_learnt:
        return f"the model has learnt from {found.num_learnt:,} of the {found.num_rows:,} rows that it was fitted on"
    if not is_whole:
        return "it was fitted on both orders, and there was no time for the second one of all rows"
    return ""
