"""About how long a measurement takes, from the model's size alone, before anything heavy is imported."""

from pathlib import Path
from typing import Any

from pref_dist.data.workers import count_cores
from pref_dist.errors import ModelError
from pref_dist.files import read_json

START_SECONDS = 15.0  # imports, weights and tokens of one process
FLOPS_A_CORE = 25e9  # what a training reaches on an ordinary core, all told


def flops_a_token(values: dict[str, Any]) -> float:
    """Return a forward's floating-point operations of a transformer's linear layers a token: its usual four and two."""
    try:
        hidden = values.get("hidden_size") or values["dim"]
        layers = values.get("num_hidden_layers") or values["n_layers"]
        inner = values.get("intermediate_size") or values.get("hidden_dim") or 4 * hidden
    except KeyError as error:
        raise ModelError(f"The model's config.json names no {error}, so that its work cannot be estimated.") from error
    return float(layers * (8 * hidden * hidden + 4 * hidden * inner))


def guess_seconds(config_json: Path | dict[str, Any], num_tokens: float, times: int) -> float:
    """Return the seconds of one process that passes so many tokens; times: 1 forward, 3 with the backward."""
    values = config_json if isinstance(config_json, dict) else read_json(config_json)
    return START_SECONDS + times * num_tokens * flops_a_token(values) / (FLOPS_A_CORE * count_cores())


def say_duration(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 180 else f"about {seconds / 60:.0f} minutes"
