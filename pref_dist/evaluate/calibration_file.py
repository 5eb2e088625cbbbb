"""`calibration.json` of a run: the temperature fitted on its held-out rows, and whether a prediction may use it."""

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
        f"gained {found.gain:.4f} nats a row.",
    )


def why_not(found: Calibration | None, run_dir: RunDir, settings: EvaluateSection, step: int, is_whole: bool) -> str:
    """Say why a temperature does not count; empty if it does."""
    if found is None:
        return f"{run_dir.calibration} is not there; write it by `pref-dist evaluate {run_dir.root}`"
    if not found.applies:
        return f"its gain of {found.gain:.4f} nats is not told from zero (95 % interval: {describe(found.interval)})"
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


def describe(interval: tuple[float, float] | None) -> str:
    return "none" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
