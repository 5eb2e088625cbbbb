"""docs/from-the-notebooks.md: the settings that it names are those of the recipes, and its places are there."""

import re
from pathlib import Path

import pytest
import yaml

from pref_dist.cli.program import program
from pref_dist.config.load import StrictLoader, all_keys, load_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-the-notebooks.md").read_text(encoding="utf-8")


def part(title):
    return PAGE.split(f"## {title}")[1].split("\n## ")[0]


def settings_of(text):
    """Return {key: value} of every `section.key: value` in a table."""
    spans = [span for line in text.splitlines() if line.startswith("|") for span in re.findall(r"`([^`]+)`", line)]
    pairs = [
        span.split(": ", 1) for span in spans if re.fullmatch(r"[a-z]+\.[a-z_]+: .+", span) and span not in PROPOSED
    ]
    return {key: yaml.load(value, Loader=StrictLoader) for key, value in pairs}


@pytest.mark.parametrize(
    ("title", "recipe", "num_settings"),
    [("The first notebook", "seed_deberta_siamese", 22), ("The second notebook", "seed_distilbert_joint", 18)],
)
def test_the_settings_of_the_page_are_those_of_the_recipe(title, recipe, num_settings):
    values = load_config(ROOT / "configs" / f"{recipe}.yaml").model_dump()
    named = (
        settings_of(part(title)) if "first" in title else settings_of(part(title)) | settings_of(part("What both do"))
    )
    named = {"model.kind": "siamese"} | named if "first" in title else named
    assert len(named) >= num_settings
    for key, value in named.items():
        section, name = key.split(".")
        assert values[section][name] == value, key


def test_every_key_verb_and_place_of_the_page_is_there():
    for span in re.findall(r"`([^`]+)`", PAGE):
        if re.fullmatch(r"(data|train|model|evaluate|run|parallel)\.[a-z_]+(: .*)?", span) and "submission" not in span:
            key = span.split(":")[0]
            assert key in all_keys() or key == "train.csv", span
        if span.startswith("pref-dist "):
            assert span.split()[1] in program.commands, span
        if re.match(r"(pref_dist|configs|docs)/", span):
            assert (ROOT / span).exists(), span
