"""Every kind of model, order and loss: the same run on one process and on two ranks of every way of sharing."""

import numpy as np
import pytest

from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]

STEPS = 8
RECIPES = {
    "joint, mean, two layers, one order drawn": {
        "model": {"pooling": "mean", "head": "two_layer"},
        "train": {"swap": "random"},
    },
    "joint, segments, both orders, smoothed": {
        "model": {"pooling": "segments"},
        "train": {"swap": "paired", "label_smoothing": 0.1},
    },
    "joint, last token": {"model": {"pooling": "last"}},
    "siamese, concat, one order drawn": {"model": {"kind": "siamese", "head": "concat"}, "train": {"swap": "random"}},
    "siamese, difference, both orders": {
        "model": {"kind": "siamese", "head": "difference"},
        "train": {"swap": "paired"},
    },
    "siamese, antisymmetric, smoothed, surface": {
        "model": {"kind": "siamese", "surface_features": True},
        "train": {"label_smoothing": 0.1},
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """Return {(back-end, recipe): run folder}."""
    folder = tmp_path_factory.mktemp("kinds")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    jobs, found = {}, {}
    for backend in ("single", "ddp", "zero3", "fsdp2"):
        for number, (recipe, sections) in enumerate(RECIPES.items()):
            train = {"max_steps": STEPS, "token_budget": 500, **sections.get("train", {})}
            run_yaml, run_dir = runs.write(f"{backend}-{number}", model=sections["model"], train=train)
            jobs.setdefault(backend, []).append({"config": str(run_yaml)})
            found[backend, recipe] = run_dir
    for backend, wanted in jobs.items():
        run_jobs(backend, 1 if backend == "single" else 2, wanted, folder)
    return found


@pytest.mark.parametrize("backend", ["ddp", "zero3", "fsdp2"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_train_the_same_run_as_one_process(trained, recipe, backend):
    alone, shared = trained["single", recipe], trained[backend, recipe]
    losses = read_losses(alone)
    assert len(losses) == STEPS
    assert largest_loss_difference(losses, read_losses(shared)) < 1e-5
    assert largest_difference(read_weights(alone), read_weights(shared)) < 1e-6


def test_recipes_differ_from_each_other(trained):
    losses = np.array([read_losses(trained["single", recipe]) for recipe in RECIPES])
    assert all(np.abs(one - other).max() > 1e-4 for n, one in enumerate(losses) for other in losses[:n])
