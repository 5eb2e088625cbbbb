"""From a YAML file and `--set` overrides to a checked run config, and back."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pref_dist.config.schema import CHANGEABLE, RunConfig, SourceSection
from pref_dist.errors import ConfigError
from pref_dist.files import StrPath
from pref_dist.findings import Kind

RECIPES = Path(__file__).parents[1] / "recipes"  # the files of configs/, also where there is no clone of the project

# Settings that have keys of their own.
DEEPER = (["data", "checks"], ["data", "sources"], ["model", "lora"], ["train", "distill"])


def load_config(path: StrPath | None = None, overrides: Iterable[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Read a run config; None: the defaults alone.

    overrides: `section.key=value` texts whose value is YAML, as `--set` takes them, or {"section.key": value}.
    Raises ConfigError naming every wrong key or value, and the nearest right key.
    """
    values = read_config_file(Path(path)) if path is not None else {}
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            put_value(values, key, os.fspath(value) if isinstance(value, os.PathLike) else value, said=key)
    else:
        for override in [overrides] if isinstance(overrides, str) else overrides:
            apply_override(values, override)
    return build_config(values, where=str(path) if path is not None else "the defaults")


def build_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """Check plain nested values and build the config from them. Raises ConfigError."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where)) from None


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the file's nested values, unchecked. Raises ConfigError if it is no YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The run config {path} cannot be read: {error.strerror}. Recipes to start from lie in {RECIPES}."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The run config {path} is not UTF-8 text: {error}.") from error
    try:
        values = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The run config {path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"The run config {path} must hold sections such as 'train:', not {type(values).__name__}.")
    return {str(key): ({} if value is None else value) for key, value in values.items()}


class StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads 2e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 2e-5, which has no point, as a string; everybody means the number.
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` (or `data.checks.kind=policy`) into `values`. Raises ConfigError if it is not so."""
    path, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set takes section.key=value, for example train.epochs=2, not '{override}'.")
    try:
        value = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    put_value(values, path, value, said=override)


def put_value(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    """Put a value under `section.key` into `values`. Raises ConfigError, quoting what was said."""
    names = path.strip().split(".")
    if len(names) < 2 or not all(names):
        raise ConfigError(f"--set takes section.key=value, for example train.epochs=2, not '{said}'.")
    section: Any = values
    for depth, name in enumerate(names[:-1], start=1):
        if section.get(name) is None:  # an optional section may stand there as null
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {said}: '{'.'.join(names[:depth])}' is not a section in the run config.")
    section[names[-1]] = value


def explain_validation(error: ValidationError, where: str) -> str:
    """One line for every problem: its config path, the value found, and the remedy."""
    lines = [explain_problem(dict(problem)) for problem in error.errors()]
    # A union such as `int | "auto"` reports one problem a member; the lines differ, the key does not.
    count = len({line.split(":")[0] for line in lines})
    return f"{count} wrong setting{'s' if count > 1 else ''} in {where}:\n" + "\n".join(dict.fromkeys(lines))


def render_found(value: Any) -> str:
    """Return a wrong value for a message, shortened: aliases can make of some lines of YAML what would fill memory."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 400, 400
    short.maxdict = short.maxlist = short.maxtuple = 20
    return short.repr(value)


def explain_problem(problem: Mapping[str, Any]) -> str:
    names = [str(name) for name in problem["loc"]]
    is_source = names[:2] == ["data", "sources"] and len(names) > 3
    known = list(SourceSection.model_fields) if is_source else known_keys(names[:-1])
    if names[:2] == ["data", "checks"] and names[-1] == "[key]":
        kinds = difflib.get_close_matches(names[2], get_args(Kind), n=1) or get_args(Kind)
        return f"  data.checks.{names[2]}: there is no such kind of finding; did you mean {' or '.join(kinds)}?"
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(names[-1], known, n=1)
        everywhere = difflib.get_close_matches(names[-1], [key.split(".")[-1] for key in all_keys()], n=1)
        if nearest:
            remedy = f"did you mean '{nearest[0]}'?"
        elif everywhere:
            remedy = f"did you mean '{next(key for key in all_keys() if key.endswith('.' + everywhere[0]))}'?"
        else:
            remedy = f"known keys: {', '.join(known)}."
        return f"  {'.'.join(names)}: there is no such key; {remedy}"
    # The names of union members ("int", "literal['auto']") are pydantic's, not the user's.
    path = ".".join(names[: 3 if names[:2] in DEEPER else 2])
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if problem["type"] == "missing" else f" (found: {render_found(problem['input'])})"
    return f"  {path}: {message}{found}"


def known_keys(names: list[str]) -> list[str]:
    section: type[BaseModel] | None = RunConfig
    for name in names:
        field = section.model_fields.get(name) if section else None
        # An optional section is a union of itself and None.
        annotations = (field.annotation, *get_args(field.annotation)) if field else ()
        sections = (kind for kind in annotations if isinstance(kind, type) and issubclass(kind, BaseModel))
        section = next(sections, None)
    return list(section.model_fields) if section else []


def all_keys() -> list[str]:
    """Every `section.key`, in the order of the schema."""
    return [f"{section}.{key}" for section in known_keys([]) for key in known_keys([section])]


def with_values(config: RunConfig, **changes: Any) -> RunConfig:
    """Return a copy with `section__key=value` changes, checked like any other config."""
    values = config.model_dump()
    for path, value in changes.items():
        section, key = path.split("__")
        values[section][key] = value
    return build_config(values, where="the resolved config")


def render_config(config: RunConfig) -> str:
    """The config as YAML, every key, in the order of the schema."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def list_changes(old: RunConfig, new: RunConfig) -> list[str]:
    """Return `key: old -> new` for each difference that changes what a resumed run computes."""
    before, after = old.model_dump(), new.model_dump()
    changes = []
    for path in all_keys():
        section, key = path.split(".")
        if path not in CHANGEABLE and before[section][key] != after[section][key]:
            changes.append(f"{path}: {before[section][key]!r} -> {after[section][key]!r}")
    return changes
