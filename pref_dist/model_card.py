"""The README.md of an exported model: what it is, how to load it, what it was made of; no path of a machine in it."""

from pathlib import Path, PurePath
from typing import Any

import yaml

from pref_dist import __version__
from pref_dist.config.schema import RunConfig
from pref_dist.files import read_json
from pref_dist.labels import CLASSES
from pref_dist.models.recipe import Parts
from pref_dist.models.source import PACKAGE_PREFIX
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint

SCORES = ("log_loss", "accuracy", "num_rows", "step")

WITH_PREF_DIST = """import pref_dist

model = pref_dist.load("FOLDER")
model.predict([{"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}])  # (1, 3): A, B, tie
"""
WITH_TRANSFORMERS = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER")  # logits of A, B, tie
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
"""


def render_card(config: RunConfig, run_dir: RunDir, found: Checkpoint, num_parameters: int, loads_with: str) -> str:
    """Return the card of a run's checkpoint, with the header that the hub reads."""
    header = {
        "library_name": "transformers" if loads_with.startswith("transformers") else "pref_dist",
        "pipeline_tag": "text-classification",
        "tags": ["preference", "reward-model", "pref_dist"],
        **name_base_for_hub(config.model.name),
    }
    sections = (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {run_dir.root.resolve().name}",
        f"It reads a prompt and two responses and says which one people prefer: {', '.join(CLASSES)}, in this order.",
        f"Base model: {shorten_name(config.model.name)}. {num_parameters / 1e6:.1f}M parameters; "
        f"{Parts.of(config.model)}. Step {found.step} of a run of pref_dist {__version__}.",
        f"## Loading it\n\n{render_loading(loads_with)}",
        f"## Scores\n\n{render_scores(run_dir)}",
        f"## Data\n\n{render_data(config, found)}",
        f"## Settings\n\n```yaml\n{yaml.safe_dump(without_places(config), sort_keys=False, allow_unicode=True)}```",
    )
    return "\n\n".join(sections) + "\n"


def render_loading(loads_with: str) -> str:
    usual = f"```python\n{WITH_PREF_DIST}```\n\nRows are rendered, cut and tokenised as in training."
    if not loads_with.startswith("transformers"):
        return f"{usual} `config.json` is the encoder's: other programs get its weights, and not the head."
    return (
        f"{usual} The model is also an ordinary classifier of transformers, which leaves the text to you:\n\n"
        f"```python\n{WITH_TRANSFORMERS}```"
    )


def render_scores(run_dir: RunDir) -> str:
    """Return a table of what was measured: the best step of the run, and the newest evaluation, of which rows."""
    lines = ["| | log loss | accuracy | rows | step |", "|---|---|---|---|---|"]
    newest = (run_dir.find_scored_on() or "held-out rows").replace("|", "\\|")  # which would end a cell
    for name, path in (
        ("best evaluation in training (held-out rows)", run_dir.best),
        (f"newest evaluation ({newest})", run_dir.metrics),
    ):
        if path.is_file():
            log_loss, accuracy, num_rows, step = (read_json(path)[key] for key in SCORES)
            lines.append(f"| {name} | {log_loss:.4f} | {accuracy:.3f} | {num_rows:,} | {step} |")
    return "\n".join(lines) if len(lines) > 2 else "The run was not evaluated."


def render_data(config: RunConfig, found: Checkpoint) -> str:
    """Return the files by name, and the digests that tell their contents apart."""
    identity: dict[str, Any] = found.progress["identity"]
    files = [source.path for source in config.data.training_sources] + [config.data.valid or ""]
    shares = ", ".join(
        f"{name} {share:.3f}" for name, share in zip(CLASSES, found.progress["class_shares"], strict=True)
    )
    lines = [
        f"Files: {', '.join(PurePath(name).name for name in files if name)}. Shares in training: {shares}.",
        "",
        *(f"- tokens of the rows: `{digest}`" for digest in identity["tables"]),
        f"- which rows are held out: `{identity['valid']}`",
        f"- order of the rows: `{identity['plan']}`",
        f"- tokenizer: `{identity['tokenizer']}`",
        "",
        "trained_rows.parquet holds hashes of the rows that it has learnt from, so that nobody takes its answers to "
        "them for those to unknown rows.",
    ]
    return "\n".join(lines)


def without_places(config: RunConfig) -> dict[str, Any]:
    """Return the settings with every path cut to its last part."""
    values: dict[str, Any] = cut_paths(config.model_dump())
    values["model"]["name"] = shorten_name(config.model.name)
    return values


def cut_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: cut_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [cut_paths(part) for part in value]
    return PurePath(value).name if isinstance(value, str) and "/" in value else value


def shorten_name(name: str) -> str:
    """Return model.name: a hub id or a package as it is, of a folder the last part."""
    return name if is_public(name) else PurePath(name).name


def is_public(name: str) -> bool:
    is_path = Path(name).expanduser().exists() or name.startswith((".", "~", "/")) or name.count("/") > 1
    return name.startswith(PACKAGE_PREFIX) or not is_path


def name_base_for_hub(name: str) -> dict[str, str]:
    return {"base_model": name} if is_public(name) and not name.startswith(PACKAGE_PREFIX) else {}
