"""Several GPUs: the loss curve of one, and logits gathered by NCCL."""

import os

import numpy as np
import pytest
import torch

from pref_dist.evaluate.logits_file import read_logits
from tests.gpu.verbs import largest_gap, run_on_gpus
from tests.ranks.run_verb import read_losses

NUM_GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.ranks,
    pytest.mark.timeout(600),
    pytest.mark.skipif(NUM_GPUS < 2, reason=f"torch sees {NUM_GPUS} GPUs, and ranks need two"),
]
TRAIN = {"max_steps": 20, "learning_rate": 2e-5, "precision": "fp32", "micro_batch_multiple": 4}
BOUND = 1e-5


@pytest.fixture
def alone(write_run):
    run_yaml, run_dir = write_run("alone", train=TRAIN)
    run_on_gpus(["train", run_yaml])
    return run_dir


@pytest.mark.parametrize("backend", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_all_gpus_give_the_loss_curve_of_one(write_run, alone, backend):
    run_yaml, run_dir = write_run(backend, train=TRAIN)
    run_on_gpus(["train", run_yaml], backend, NUM_GPUS)
    gap = largest_gap(read_losses(run_dir), read_losses(alone))
    print(f"\n{backend} on {NUM_GPUS} GPUs against one ({os.environ['CUDA_VISIBLE_DEVICES']}): {gap:.1e}")
    assert gap < BOUND


def test_evaluation_on_all_gpus_gathers_the_logits_of_one(alone):
    run_on_gpus(["evaluate", alone])
    one = read_logits(alone / "valid_logits.parquet")
    run_on_gpus(["evaluate", alone], "ddp", NUM_GPUS)
    all_of_them = read_logits(alone / "valid_logits.parquet")
    assert all_of_them.row_ids == one.row_ids
    assert np.array_equal(all_of_them.logits, one.logits)
