"""Every recipe trains on two ranks, is stopped, goes on, predicts and is exported, with a tiny model of its class.

Overridden are the model (see families.py), the rows, the folders, `train.max_steps`, and fp16 on a CPU without it.
Token budgets, rows a step, templates and all else are the recipe's own. (The sample's rows are too short to be cut.)
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pref_dist
from pref_dist.config.load import load_config
from pref_dist.evaluate.restore import read_run_config
from pref_dist.export import export
from pref_dist.run_dir import RunDir
from pref_dist.submission import read_probabilities
from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded, run_ranks
from tests.ranks.run_verb import launch_env, read_losses
from tests.recipes.families import write_tiny

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]

NUM_RANKS, NUM_STEPS = 2, 3
# The way of sharing that fits the size of the published model.
BACKENDS = {
    "minilm_demo": "ddp",
    "seed_distilbert_joint": "ddp",
    "seed_deberta_siamese": "ddp",
    "deberta_v3_small": "ddp",
    "deberta_v3_base": "ddp",
    "modernbert_base": "fsdp2",
    "deberta_v3_large": "zero2",
    "gemma2_9b_lora": "zero3",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def trained(folder, sample_dir, cache_dir):
    """Return {recipe: what its job was} after two ranks have done it."""
    jobs = {recipe: describe_job(recipe, folder / recipe, sample_dir, cache_dir) for recipe in BACKENDS}
    for backend in dict.fromkeys(BACKENDS.values()):
        path = folder / f"{backend}.json"
        path.write_text(json.dumps([job for recipe, job in jobs.items() if BACKENDS[recipe] == backend]))
        ranks = run_ranks("tests.recipes.recipe_ranks", NUM_RANKS, [str(path)], launch_env(backend), timeout=400)
        check_ranks_succeeded(ranks)
    return jobs


def describe_job(recipe, folder, sample_dir, cache_dir):
    config = REPO_ROOT / "configs" / f"{recipe}.yaml"
    settings = load_config(config)
    text = (sample_dir / "train.csv").read_text(encoding="utf-8")
    overrides = {
        "model.name": write_tiny(settings.model.name, folder / "model", text),
        "data.train": sample_dir / "train.csv",
        "data.cache_dir": cache_dir,
        "train.max_steps": NUM_STEPS,
        "parallel.backend": BACKENDS[recipe],
        "parallel.world_size": NUM_RANKS,
    }
    if settings.train.precision == "fp16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        overrides["train.precision"] = "fp32"
    return {
        "config": str(config),
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
        "whole": str(folder / "whole"),
        "stopped": str(folder / "stopped"),
        "data": str(sample_dir / "test.csv"),
        "out": str(folder / "submission.csv"),
    }


def test_every_recipe_is_tried():
    recipes = {path.stem for path in (REPO_ROOT / "configs").glob("*.yaml")}
    assert recipes - set(BACKENDS) == {"demo"}, "launch/demo.sh runs that one"


@pytest.mark.parametrize("recipe", BACKENDS)
def test_a_recipe_that_was_stopped_gives_the_losses_of_one_that_was_not(trained, recipe):
    job = trained[recipe]
    losses, again = (read_losses(Path(job[name])) for name in ("whole", "stopped"))
    assert len(losses) == NUM_STEPS
    assert np.isfinite(losses).all()
    assert losses == again


@pytest.mark.parametrize("recipe", BACKENDS)
def test_a_recipe_predicts_every_row(trained, recipe, sample_dir):
    chances = read_probabilities(Path(trained[recipe]["out"]))
    assert list(chances.index) == list(pd.read_csv(sample_dir / "test.csv", dtype={"id": str})["id"])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", BACKENDS)
def test_an_exported_recipe_answers_as_its_run_did(trained, recipe, sample_dir):
    run_dir = Path(trained[recipe]["stopped"])
    result = export(run_dir, run_dir.parent / "exported")
    found = pref_dist.load(result.out).predict(pd.read_csv(sample_dir / "test.csv"))
    # Adapters were merged into weights that bf16 rounds; fp16 rounds on other kinds of CPU otherwise.
    narrow = read_run_config(RunDir(run_dir), ()).train.precision != "fp32"
    wanted = read_probabilities(Path(trained[recipe]["out"])).to_numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 if narrow else 1e-6)
