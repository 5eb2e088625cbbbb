"""The settings of a run, those in which runs differ, and the machine that writes the page."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pref_dist.config.schema import RunConfig

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy")


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


def list_versions() -> dict[str, str]:
    """Return the machine and the libraries of the process that writes the page."""
    versions = {name: find_version(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    return machine | {name: found for name, found in versions.items() if found}


def find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
