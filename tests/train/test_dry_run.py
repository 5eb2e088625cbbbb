"""`train --dry-run`: what a rank's memory will hold, beside what it is measured to hold; and nothing is written."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import BertConfig

from pref_dist.cli.memory_table import render_budget
from pref_dist.config.load import load_config
from pref_dist.config.model_section import LoraSection, ModelSection
from pref_dist.doctor.run_config import find_sizes
from pref_dist.errors import CheckpointError, OutOfMemoryError
from pref_dist.models.build import build_model
from pref_dist.models.sizes import ModelSizes, measure_files, measure_module
from pref_dist.runtime.memory_estimate import Sharing, StateBytes, estimate_state
from pref_dist.train.assemble import TrainOptions
from pref_dist.train.dry_run import DryRun, dry_run
from pref_dist.train.measuring import RankMemory, correct, fit_line
from pref_dist.train.run import train
from tests.tiny_model import write_random

FACTOR = 1.5  # between an estimate and what is measured
IMPORTED_BYTES = 40e6
OUT_OF_MEMORY = 9
SIZES = ModelSizes(num_trained=1000, num_by_rows=0, value_bytes=4, frozen_bytes=0, num_outside=400, num_in_layer=100)


@pytest.fixture(scope="module")
def middle_model(tmp_path_factory, tiny_model):
    """A BERT whose batches are larger than what an allocator rounds: 4 layers x 256, 3.6M parameters."""
    folder = tmp_path_factory.mktemp("middle_bert")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    config = BertConfig(
        vocab_size=400, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=512,
    )  # fmt: skip
    return write_random(config, folder)


def test_the_estimate_is_near_what_is_measured_and_the_run_folder_stays_as_it_is(write_run, middle_model):
    changes = {"rows_per_step": 64, "token_budget": 4000}
    run_yaml, run_dir = write_run(model={"name": str(middle_model)}, train=changes, data={"max_tokens": 256})
    command = [sys.executable, "-m", "pref_dist", "train", run_yaml, "--dry-run", "--json"]
    env = {**os.environ, "LOCAL_WORLD_SIZE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    (rank,) = found["ranks"]
    assert found["fits"] is True
    assert rank["activations"] / FACTOR < rank["activations_measured"] < rank["activations"] * FACTOR
    # Weights that are still mapped from their file are not the process's own, code that was imported meanwhile is.
    own = rank["state"]["gradients"] + rank["state"]["optimizer"]
    assert own / FACTOR < rank["state_measured"] < rank["state"]["total"] * FACTOR + IMPORTED_BYTES
    assert rank["num_tokens"] <= 4000 < found["largest_budget"]
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("backend", "parameters", "gradients", "optimizer", "gathered", "on_host"),
    [
        ("single", 4000, 4000, 8000, 0, 0),
        ("ddp", 4000, 4000, 8000, 0, 0),
        ("zero1", 4000, 4000, 3000, 0, 0),
        ("zero2", 4000, 1000, 3000, 0, 0),
        ("zero2_offload", 4000, 0, 0, 0, 4000),
        ("zero3", 1000, 1000, 3000, 4000, 0),
        ("zero3_offload", 0, 0, 0, 4000, 5000),
        ("fsdp2", 1000, 4000, 2000, 4000, 0),
    ],
)
def test_each_back_end_keeps_its_own_share_of_four(backend, parameters, gradients, optimizer, gathered, on_host):
    found = estimate_state(SIZES, Sharing(backend, 1 if backend == "single" else 4, "fp32"))
    assert found == StateBytes(parameters, gradients, optimizer, gathered, on_host)


def test_with_fp16_deepspeed_computes_with_narrow_weights_beside_wide_ones():
    found = estimate_state(SIZES, Sharing("zero2", 2, "fp16"))
    assert (found.parameters, found.gradients, found.optimizer) == (2000, 1000, 6000)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embeddings": "frozen"},
        {"embeddings": "sparse"},
        {"lora": LoraSection(rank=4)},
        {"lora": LoraSection(rank=4, modules=["query"], dora=True, base="bf16")},
    ],
    ids=str,
)
def test_the_files_alone_tell_how_much_of_a_model_is_trained(middle_model, changes):
    settings = ModelSection(name=str(middle_model), **changes)
    built = build_model(settings, middle_model, 256, 400, seed=0)
    told, true = measure_files(middle_model, settings), measure_module(built.module)
    assert told is not None
    assert told.num_trained == pytest.approx(true.num_trained, rel=0.02)
    assert told.num_by_rows == true.num_by_rows
    assert told.frozen_bytes == pytest.approx(true.frozen_bytes, rel=0.02)
    assert (told.num_outside, told.num_in_layer) == pytest.approx((true.num_outside, true.num_in_layer), rel=0.05)


def test_doctor_counts_no_moments_of_a_frozen_table_and_the_adapters_of_lora(write_run, wide_model):
    def checkpoint_bytes(**model):
        sizes = find_sizes(load_config(write_run(model={"name": str(wide_model), **model})[0]))
        assert sizes is not None
        return sizes.checkpoint_bytes

    assert checkpoint_bytes() > 3 * 70e6
    assert checkpoint_bytes(embeddings="sparse") == checkpoint_bytes()
    assert checkpoint_bytes(embeddings="frozen") < 1e6
    assert 0 < checkpoint_bytes(lora={"rank": 4}) < 1e6


def test_two_batches_make_a_line_that_tells_the_largest_budget():
    line = fit_line([(100, 1500), (200, 2500)])
    assert line.of(400) == 4500
    assert line.tokens_within(10_500) == 1000
    assert fit_line([(100, 1500), (200, 1400)]).tokens_within(1e9) is None, "too small to tell"
    assert fit_line([(100, 1500)]).of(200) == 3000


def test_the_largest_budget_is_told_no_further_than_the_batches_can_tell():
    rank = RankMemory(StateBytes(100, 100, 200), 100, 8, 800, 1000, 900, free=5000, largest_budget=4000)

    def told(token_budget, **changes):
        return render_budget(DryRun("single", 1, "cpu", 10, 2, token_budget, [replace(rank, **changes)], True))

    assert told(800).endswith("fits; the largest that fits is about 4,000")
    assert "fits; so would 8 times as much" in told(800, largest_budget=9000)
    assert told(9000).endswith("fits; no micro-batch has more than 800 tokens (train.rows_per_step)")
    assert told(5000, activations_measured=None).endswith("does not fit; the largest that fits is about 4,000")
    assert told(800, activations_measured=None, largest_budget=None).endswith("does not fit; set a smaller one")
    assert told(800, largest_budget=700).endswith("the largest that fits is about 800")
    assert correct(rank, 2500) == 1520, "the largest batch took more than two smaller ones had foretold"
    assert correct(rank, 900) == 4000


def test_what_does_not_fit_is_an_error_with_the_budget_that_does():
    state = StateBytes(100, 100, 200)
    roomy = RankMemory(state, 100, 8, 800, 1000, None, free=5000, largest_budget=4000)
    tight = RankMemory(state, 100, 8, 800, 6000, None, free=5000, largest_budget=660)
    tried = replace(roomy, activations_measured=900)
    DryRun("ddp", 2, "cpu", 10, 2, 800, [tried, tried], True).check_fits()
    with pytest.raises(OutOfMemoryError, match="at most 660") as raised:
        DryRun("ddp", 2, "cpu", 10, 2, 800, [roomy, tight], True).check_fits()
    assert "1 of 2 ranks (rank 1: about 6.0 KB are needed, 5.0 KB are free)" in str(raised.value)
    assert raised.value.exit_code == OUT_OF_MEMORY
    # Nobody tries the largest batch once a rank has failed with a smaller one.
    failed = RankMemory(state, num_rows=8, num_tokens=800, failure="not enough memory: 9 GB")
    with pytest.raises(OutOfMemoryError, match=r"1 of 2 ranks \(rank 1: not enough memory: 9 GB\). Lower it") as raised:
        DryRun("ddp", 2, "cpu", 10, 2, 800, [roomy, failed], True).check_fits()
    assert "4,000" not in str(raised.value)


def test_a_run_that_would_not_go_on_is_refused_and_one_that_would_is_measured_without_its_model_folder(
    write_run, tiny_model, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    run_yaml, run_dir = write_run(model={"name": str(model)}, train={"max_steps": 2})
    train(load_config(run_yaml))
    shutil.rmtree(model)
    before = sorted(run_dir.rglob("*"))
    assert dry_run(load_config(run_yaml, ["train.max_steps=2"])).fits
    with pytest.raises(CheckpointError, match="belongs to another run"):
        dry_run(load_config(run_yaml), TrainOptions(limit=40))
    assert sorted(run_dir.rglob("*")) == before


def test_of_folds_it_is_the_one_that_is_asked_for_and_none_is_begun(write_run, capsys):
    run_yaml, run_dir = write_run(data={"num_folds": 3})
    found = dry_run(load_config(run_yaml), fold=0)
    assert found.fits
    assert found.num_rows < 300
    assert f"run        {run_dir / 'fold_0'}" in capsys.readouterr().out
    assert not run_dir.exists()
