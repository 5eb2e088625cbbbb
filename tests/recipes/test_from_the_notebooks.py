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


def settings_of(title):
    """Return {key: value} of every `section.key: value` about one notebook, and about both."""
    spans = re.findall(r"`([^`]+)`", part("What both do") + part(title))
    pairs = [span.split(": ", 1) for span in spans if re.fullmatch(r"[a-z]+\.[a-z_]+: .+", span)]
    return {key: yaml.load(value, Loader=StrictLoader) for key, value in pairs}


@pytest.mark.parametrize(
    ("title", "recipe", "num_settings"),
    [("The first notebook", "seed_deberta_siamese", 23), ("The second notebook", "seed_distilbert_joint", 19)],
)
def test_the_settings_of_the_page_are_those_of_the_recipe(title, recipe, num_settings):
    values = load_config(ROOT / "configs" / f"{recipe}.yaml").model_dump()
    named = settings_of(title)
    assert len(named) >= num_settings
    for key, value in named.items():
        section, name = key.split(".")
        assert values[section][name] == value, key


def test_every_key_verb_and_place_of_the_page_is_there():
    for span in re.findall(r"`([^`]+)`", PAGE):
        if re.fullmatch(r"(data|train|model|evaluate|run|parallel)\.[a-z_]+(: .*)?", span):
            assert span.split(":")[0] in all_keys(), span
        if span.startswith("pref-dist "):
            assert span.split()[1] in program.commands, span
        if re.match(r"(pref_dist|configs|docs)/", span):
            assert (ROOT / span).exists(), span
