"""Training on several sources: the loss of a step is the weighted mean of its rows, on any number of ranks."""

import numpy as np
import pandas as pd
import pytest

from pref_dist.config.load import load_config
from pref_dist.data.plan import Plan
from pref_dist.data.prepare import prepare
from tests.ranks.run_verb import largest_loss_difference, read_losses, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

WINNERS = ["winner_model_a", "winner_model_b", "winner_tie"]


@pytest.fixture
def sources(sample_dir, tmp_path):
    """The sample's first rows as a CSV file with weight 1, the next as soft labels in Parquet with weight .25."""
    frame = pd.read_csv(sample_dir / "train.csv", dtype={"id": str})
    frame[:100].to_csv(tmp_path / "hard.csv", index=False)
    soft = frame[100:180].drop(columns=WINNERS)
    soft["prob_model_a"], soft["prob_model_b"], soft["prob_tie"] = 0.5, 0.3, 0.2
    soft.to_parquet(tmp_path / "soft.parquet", index=False)
    return [
        {"path": str(tmp_path / "hard.csv")},
        {"path": str(tmp_path / "soft.parquet"), "weight": 0.25},
    ]


def write_config(write_run, sample_dir, sources, name, **train):
    settings = {"max_steps": 3, "learning_rate": 1e-12, **train}
    data = {"train": None, "sources": sources, "valid": str(sample_dir / "test_labels.csv")}
    return write_run(name, data=data, train=settings)


def test_the_loss_of_a_step_is_the_weighted_mean_of_its_rows_losses(
    write_run, sample_dir, sources, tiny_model, tmp_path
):
    run_yaml, run_dir = write_config(write_run, sample_dir, sources, "weighted")
    run_verb("single", 1, ["train", str(run_yaml)])
    # The rate is so small that the weights after the run are those before it, to the last digit that counts.
    chances = []
    for source in sources:
        out = tmp_path / "chances.csv"
        run_verb("single", 1, ["predict", str(run_dir), "--data", source["path"], "--out", str(out)])
        chances.append(pd.read_csv(out)[WINNERS].to_numpy())
    frame = pd.read_csv(sources[0]["path"])
    targets = np.concatenate([frame[WINNERS].to_numpy(), np.tile([0.5, 0.3, 0.2], (80, 1))])
    row_losses = -(targets * np.log(np.concatenate(chances))).sum(axis=1)
    weights = np.repeat([1.0, 0.25], [100, 80])
    config = load_config(run_yaml)
    table = prepare(config, tiny_model).train_table
    plan = Plan(np.arange(180), table.lengths, 13, 400, 1, config.run.seed, 1, 3)
    for planned, loss in zip(plan.steps(), read_losses(run_dir), strict=True):
        rows = np.concatenate([micro_batch.rows for micro_batch in planned.micro_batches])
        assert loss == pytest.approx(np.average(row_losses[rows], weights=weights[rows]), abs=2e-6)


def test_two_ranks_train_on_weighted_sources_as_one_does(write_run, sample_dir, sources):
    losses = []
    for backend, world_size in (("single", 1), ("ddp", 2)):
        run_yaml, run_dir = write_config(
            write_run, sample_dir, sources, backend, max_steps=6, learning_rate=1e-3, micro_batch_multiple=2
        )
        run_verb(backend, world_size, ["train", str(run_yaml)])
        losses.append(read_losses(run_dir))
    assert largest_loss_difference(*losses) < 1e-5


def test_a_template_of_two_sequences_is_refused_by_a_model_that_reads_one(write_run):
    run_yaml, run_dir = write_run("siamese", data={"template": "seed_siamese"})
    (result,) = run_verb("single", 1, ["train", str(run_yaml)])
    assert result.exit_code == 2
    assert "data.template=seed_siamese writes two sequences a row, and model.kind=joint reads one" in result.stderr
    assert not (run_dir / "config.yaml").exists()


def test_the_other_notebook_trains_on_its_own_text(write_run):
    run_yaml, run_dir = write_run(
        "seed", data={"template": "seed_joint", "truncation": "right"}, train={"max_steps": 3}
    )
    (result,) = run_verb("single", 1, ["train", str(run_yaml)])
    assert result.exit_code == 0, result.stderr
    assert len(read_losses(run_dir)) == 3
