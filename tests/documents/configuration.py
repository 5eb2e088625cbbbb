"""Writes docs/configuration.md from the schema of the run config.

python -m tests.documents.configuration > docs/configuration.md
"""

import json
from collections.abc import Iterator
from typing import Any

from pref_dist.config.schema import CHANGEABLE, RunConfig

SECTIONS = {
    "run": "The run folder, the seed, trackers.",
    "parallel": "Asserted or asked of the processes. The launchers set `backend` and `world_size`: "
    "[distributed.md](distributed.md).",
    "data": "Rows, splits, text, token caches: [data.md](data.md).",
    "model": "Which encoder or decoder, and what stands on it: [decoders.md](decoders.md), [export.md](export.md).",
    "train": "Steps, losses, rates, checkpoints: [schedules.md](schedules.md), [performance.md](performance.md).",
    "evaluate": "When a run is evaluated, and how `evaluate`, `predict` and `blend` make logits: "
    "[evaluation.md](evaluation.md).",
}
# Keys that hold keys of their own.
NESTED = {
    "SourceSection": "data.sources[]",
    "LoraSection": "model.lora",
    "DistillSection": "train.distill",
}
INTRODUCTION = """# Configuration

Written by `python -m tests.documents.configuration`; a test compares it with the schema (`pref_dist/config/`).

A run config is a YAML file with the six sections below. Whatever it leaves out has the default; `RUN_DIR/config.yaml`
holds every key as it was resolved. An unknown key, or a value of another type, is an error (exit code 2) that names the
nearest key. Numbers may be written as `2e-5`. Paths are relative to the folder in which the command is started.

`--set SECTION.KEY=VALUE` overrides one key, as often as needed, on `prepare`, `train`, `evaluate`, `predict`, `blend`,
`doctor`, `bench` and `slurm submit`. The value is YAML, so quote what the shell would read:

```bash
pref-dist train RUN.yaml --set run.dir=runs/longer --set train.epochs=2 --set train.learning_rate=1e-5
pref-dist train RUN.yaml --set run.dir=runs/both --set 'data.sources=[{path: train.csv, weight: 0.5}, {path: more.csv}]'
pref-dist train RUN.yaml --set run.dir=runs/adapters --set model.lora.rank=8 --set data.checks.duplicate_pair=set_aside
pref-dist evaluate RUN_DIR --set evaluate.swap=full
```

Later ones win: the defaults, the file, the overrides in their order. The launchers put `parallel.backend` and
`parallel.world_size` before yours. `evaluate`, `predict` and `blend` read the run's own `config.yaml`; there only
`parallel.*`, `evaluate.*`, `data.cache_dir`, `data.num_workers` and `train.precision` may be overridden, since all else
belongs to the weights.

**resume** says whether a run that goes on may have another value. Any other change is refused with the difference
shown, unless `--accept-changes`.
"""


def render() -> str:
    """The whole document."""
    schema = RunConfig.model_json_schema()
    parts = [INTRODUCTION]
    for name, about in SECTIONS.items():
        section = resolve(schema["properties"][name], schema)
        parts.append(f"## {name}\n\n{about}\n\n{render_table(name, section, schema)}")
        for title, place in NESTED.items():
            if place.startswith(f"{name}."):
                parts.append(f"### {place}\n\n{render_table(place, schema['$defs'][title], schema)}")
    return "\n".join(parts)


def render_table(place: str, section: dict[str, Any], schema: dict[str, Any]) -> str:
    is_nested = "." in place
    head = "| key | default | values | meaning |\n|---|---|---|---|\n"
    if not is_nested:
        head = "| key | default | values | resume | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in render_rows(place, section, schema))


def render_rows(place: str, section: dict[str, Any], schema: dict[str, Any]) -> Iterator[list[str]]:
    for key, field in section["properties"].items():
        values = " or ".join(dict.fromkeys(describe(field, schema)))
        changeable = [] if "." in place else ["yes" if f"{place}.{key}" in CHANGEABLE else ""]
        cells = [f"`{key}`", render_default(key, field, section), values, *changeable, field["description"]]
        yield [cell.replace("|", "\\|") for cell in cells]


def render_default(key: str, field: dict[str, Any], section: dict[str, Any]) -> str:
    if key in section.get("required", ()):
        return "needed"
    if "default" in field:
        return f"`{json.dumps(field['default'], ensure_ascii=False)}`".replace('"', "")
    return "`[]`" if field.get("type") == "array" else "`{}`"


def describe(field: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """What a key takes, in words: one for each member of a union."""
    field = resolve(field, schema)
    kind = field.get("type")
    if "anyOf" in field:
        for member in field["anyOf"]:
            yield from describe(member, schema)
    elif "enum" in field or "const" in field:
        yield ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    elif kind == "array":
        yield f"list of ({' or '.join(describe(field['items'], schema))})"
    elif kind == "object" and "properties" in field:
        yield f"mapping: {', '.join(f'`{key}`' for key in field['properties'])}"
    elif kind == "object":
        yield f"mapping of a kind to {' or '.join(describe(field['additionalProperties'], schema))}"
    elif kind == "boolean":
        yield "`true`, `false`"
    elif kind == "null":
        yield "`null`"
    else:
        yield f"{ {'integer': 'integer', 'number': 'number', 'string': 'text'}[str(kind)] }{render_bounds(field)}"


def render_bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[name]:g}" for name, sign in signs.items() if abs(field.get(name, 2**62)) < 2**62]
    return f" {', '.join(bounds)}" if bounds else ""


def resolve(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the schema's definitions."""
    if "$ref" not in field:
        return field
    found: dict[str, Any] = schema["$defs"][field["$ref"].rsplit("/", 1)[-1]]
    return found


if __name__ == "__main__":
    print(render(), end="")
