"""The settings of a run, and those in which runs differ."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pref_dist.config.schema import RunConfig


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    is_default: bool


def list_settings(config: RunConfig) -> dict[str, list[Setting]]:
    """Return the settings of every section, and whether each is the default."""
    defaults = RunConfig().model_dump()
    return {
        section: [Setting(key, render_value(value), value == defaults[section][key]) for key, value in values.items()]
        for section, values in config.model_dump().items()
    }


def list_differences(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """Return {section.key: its value in each run} of the settings that are not the same in all; run.dir never is."""
    dumped = [config.model_dump() for config in configs]
    values = {
        f"{section}.{key}": [render_value(config[section][key]) for config in dumped]
        for section, settings in dumped[0].items()
        for key in settings
    }
    return {path: found for path, found in values.items() if path != "run.dir" and len(set(found)) > 1}


def render_value(value: Any) -> str:
    """As it would stand in the YAML file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
