"""model.embeddings: what happens to the table of token embeddings in a run, from train to export."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

import pref_dist
from pref_dist.config.load import load_config
from pref_dist.config.model_section import ModelSection
from pref_dist.errors import CheckpointError, ConfigError
from pref_dist.export import export
from pref_dist.models.row_embedding import check_row_updates
from pref_dist.train.stages import find_start_folder
from tests.exported_kinds import infer_file
from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
TABLE = "bert.embeddings.word_embeddings.weight"
TRAIN = {"max_steps": 4, "save_every_steps": 2, "keep_last": 5, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    folder = tmp_path_factory.mktemp("embeddings")
    model = shutil.copytree(tiny_model, folder / "model")
    return TinyRuns(folder, sample_dir / "train.csv", model, cache_dir)


@pytest.fixture(scope="module")
def frozen(runs):
    """{name: run folder}: whole on one rank, going on from step 2 there, on two ranks of DDP."""
    found, jobs = {}, {}
    for name in ("whole", "resumed", "ddp"):
        run_yaml, found[name] = runs.write(f"frozen_{name}", model={"embeddings": "frozen"}, train=TRAIN)
        jobs[name] = {"config": str(run_yaml)}
    jobs["resumed"] |= {"copy_of": str(found["whole"]), "step": 2}
    run_jobs("single", 1, [jobs["whole"], jobs["resumed"]], runs.folder)
    run_jobs("ddp", 2, [jobs["ddp"]], runs.folder)
    return found


def read_base(runs):
    return load_file(runs.model / "model.safetensors")


def test_a_frozen_table_is_in_no_checkpoint_and_all_else_is_trained(frozen, runs):
    kept, base = read_weights(frozen["whole"]), read_base(runs)
    trained = {f"bert.{name}" for name in base if "pooler" not in name}
    assert trained - kept.keys() == {TABLE}
    assert not np.array_equal(kept["bert.embeddings.LayerNorm.weight"], base["embeddings.LayerNorm.weight"])


def test_a_run_with_a_frozen_table_goes_on_bit_for_bit(frozen):
    assert read_losses(frozen["whole"]) == read_losses(frozen["resumed"])
    assert largest_difference(read_weights(frozen["whole"]), read_weights(frozen["resumed"])) == 0.0


def test_a_run_with_a_frozen_table_is_the_same_on_two_ranks(frozen):
    assert largest_loss_difference(read_losses(frozen["whole"]), read_losses(frozen["ddp"])) <= 1e-5


def test_evaluation_prediction_and_export_have_the_table_of_the_model_it_started_from(frozen, runs, sample_dir):
    logits = infer_file(frozen["whole"], sample_dir / "test.csv")
    out = export(frozen["whole"], runs.folder / "out").out
    weights = load_file(out / "model.safetensors")
    assert np.array_equal(weights[TABLE], read_base(runs)["embeddings.word_embeddings.weight"])
    loaded = pref_dist.load(out)
    assert "embeddings" not in json.loads((out / "pref_dist.json").read_text())["model"]
    np.testing.assert_allclose(loaded.logits(pd.read_csv(sample_dir / "test.csv")), logits, rtol=0, atol=1e-6)


def test_a_frozen_table_that_has_changed_or_is_gone_ends_an_evaluation(frozen, runs, sample_dir):
    file = runs.model / "model.safetensors"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=r"model\.embeddings=frozen\), trained beside other weights"):
            infer_file(frozen["whole"], sample_dir / "test.csv")
        file.unlink()
        with pytest.raises(CheckpointError, match=r"holds no table of embeddings .*are gone"):
            infer_file(frozen["whole"], sample_dir / "test.csv")
    finally:
        file.write_bytes(kept)


def test_a_second_stage_from_a_run_with_a_frozen_table_asks_for_an_export(frozen, write_run):
    with pytest.raises(ConfigError, match=r"model\.embeddings=frozen takes weights.*Export it first"):
        find_start_folder(load_config(write_run("second", model={"name": str(frozen["whole"])})[0]), None)


@pytest.fixture(scope="module")
def sparse(runs):
    """{name: run folder}: whole on one rank, going on from step 2 there, on two ranks of DDP; and trained whole."""
    found, jobs = {}, {}
    for name in ("whole", "resumed", "ddp", "dense"):
        model = {"embeddings": "trained" if name == "dense" else "sparse"}
        run_yaml, found[name] = runs.write(f"sparse_{name}", model=model, train={**TRAIN, "learning_rate": 2e-5})
        jobs[name] = {"config": str(run_yaml)}
    jobs["resumed"] |= {"copy_of": str(found["whole"]), "step": 2}
    run_jobs("single", 1, [jobs["whole"], jobs["resumed"], jobs["dense"]], runs.folder)
    run_jobs("ddp", 2, [jobs["ddp"]], runs.folder)
    return found


def test_a_sparse_table_leaves_rows_alone_whose_tokens_never_came(sparse, runs):
    before, after = read_base(runs)["embeddings.word_embeddings.weight"], read_weights(sparse["whole"])
    changed = (before != after[TABLE]).any(axis=1)
    assert 0 < changed.sum() < len(before)
    dense = (before != read_weights(sparse["dense"])[TABLE]).any(axis=1)
    assert dense.sum() > changed.sum(), "weight decay touches all rows of a table that is trained whole"


def test_a_run_with_a_sparse_table_goes_on_bit_for_bit(sparse):
    assert read_losses(sparse["whole"]) == read_losses(sparse["resumed"])
    assert largest_difference(read_weights(sparse["whole"]), read_weights(sparse["resumed"])) == 0.0


def test_a_run_with_a_sparse_table_is_the_same_on_two_ranks_that_touch_different_rows(sparse):
    assert largest_loss_difference(read_losses(sparse["whole"]), read_losses(sparse["ddp"])) <= 1e-5
    assert largest_difference(read_weights(sparse["whole"]), read_weights(sparse["ddp"])) <= 1e-6


def test_the_first_gradient_norm_is_that_of_a_table_that_is_trained_whole(sparse):
    whole, dense = (read_losses(sparse[name], "grad_norm")[0] for name in ("whole", "dense"))
    assert whole == pytest.approx(dense, rel=1e-6)


def test_evaluation_and_export_of_a_sparse_table_need_no_model_name(sparse, runs, sample_dir):
    logits = infer_file(sparse["whole"], sample_dir / "test.csv")
    out = export(sparse["whole"], runs.folder / "sparse_out").out
    assert np.array_equal(load_file(out / "model.safetensors")[TABLE], read_weights(sparse["whole"])[TABLE])
    loaded = pref_dist.load(out)
    np.testing.assert_allclose(loaded.logits(pd.read_csv(sample_dir / "test.csv")), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("backend", "precision"), [("zero2", "fp32"), ("fsdp2", "bf16"), ("ddp", "fp16")])
def test_a_sparse_table_where_it_cannot_run_names_the_setting(backend, precision):
    with pytest.raises(ConfigError, match=r"model\.embeddings=sparse .*Set "):
        check_row_updates("sparse", precision, backend)


@pytest.mark.parametrize("others", [{"lora": {"rank": 2}, "kind": "decoder"}, {"from_scratch": True}])
def test_a_frozen_table_beside_settings_that_it_has_no_sense_with_is_refused(others):
    with pytest.raises(ValidationError, match="embeddings=frozen"):
        ModelSection.model_validate({"embeddings": "frozen", **others})
