"""The files in configs/ load, are short, hold differences alone, and say what hardware and memory they mean."""

import re

import pytest

from pref_dist.config.load import build_config, load_config, read_config_file
from tests.recipes.memory import CONFIGS, GB, calculate_memory

FILES = sorted(CONFIGS.glob("*.yaml"))
RECIPES = [path for path in FILES if path.stem != "demo"]
# A reader looks for these first.
SAID_IN_ANY_CASE = {"model.kind", "model.name", "train.learning_rate"}
# What the notebooks state, or what their libraries do, stays so whatever the defaults become.
STATED_BY_A_NOTEBOOK = {
    "seed_distilbert_joint": {
        "run.seed", "data.valid_fraction", "train.weight_decay", "train.schedule",
        "train.warmup_fraction", "train.clip_norm", "train.keep_last",
    },
    "seed_deberta_siamese": {
        "run.seed", "data.valid_fraction", "train.weight_decay", "train.plateau_patience",
        "train.plateau_factor", "evaluate.every_epochs",
    },
}  # fmt: skip


def flatten(values, prefix=""):
    """Yield (path, value) of every setting; a section that is null is a setting itself."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def comments_of(path):
    return " ".join(re.findall(r"#\s*(.*)", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_holds_only_what_differs_from_the_defaults(path):
    written = read_config_file(path)
    load_config(path)
    kind = {"kind": written["model"].get("kind", "joint")}
    # An adapter's defaults are those of model.lora={}.
    optional = {"lora": {}} if "lora" in written["model"] else {}
    defaults = dict(flatten(build_config({"model": kind | optional}, "the defaults").model_dump()))
    same = {key for key, value in flatten(written) if defaults[key] == value}
    assert same - SAID_IN_ANY_CASE == STATED_BY_A_NOTEBOOK.get(path.stem, set())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_short_and_says_what_hardware_and_memory_it_means(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    comments = comments_of(path)
    assert re.search(r"GPU|CPU", comments)
    assert re.search(r"\d GB", comments)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_was_not_run_and_what_was_calculated(path):
    """`python -m tests.recipes.memory` prints the figures."""
    comments = comments_of(path)
    assert "Calculated" in comments
    memory = calculate_memory(load_config(path))
    trained, trained_gb = re.search(r"([\d.]+)M parameters x 16 bytes = ([\d.]+) GB", comments).groups()
    assert float(trained) == round(memory.num_trained / 1e6, 1)
    assert float(trained_gb) == round(memory.trained_bytes / GB, 1)
    activations_gb = float(re.search(r"activations ([\d.]+) GB", comments)[1])
    assert activations_gb == pytest.approx(memory.activation_bytes / GB, rel=0.05, abs=0.05)
    if memory.num_frozen:
        frozen, frozen_gb = re.search(r"([\d.]+)M parameters are frozen.*? = ([\d.]+) GB", comments).groups()
        assert float(frozen) == round(memory.num_frozen / 1e6, 1)
        assert float(frozen_gb) == round(memory.frozen_bytes / GB, 1)
