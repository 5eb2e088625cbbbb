"""Whole runs on one GPU against the same runs on the CPU, in every precision, and through a stop."""

import shutil
import signal
import time

import pytest
import yaml
from transformers import DebertaV2Config, DebertaV2Model

from tests.gpu.verbs import TIMEOUT_SECONDS, largest_gap, run_on_gpus, start_on_gpus
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import largest_difference, read_losses, read_steps, read_weights, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

STEPS = {"max_steps": 20, "learning_rate": 2e-5}
# fp32 on both: other orders of summation. A 16-bit forward rounds to 8 (bf16) or 11 (fp16) bits.
FP32_BOUND, NARROW_BOUND = 1e-4, 0.03


@pytest.fixture
def on_cpu(write_run):
    run_yaml, run_dir = write_run("cpu", train={"precision": "fp32", **STEPS})
    check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
    return read_losses(run_dir)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_curve_is_that_of_a_cpu(write_run, on_cpu, precision):
    run_yaml, run_dir = write_run(precision, train={"precision": precision, **STEPS})
    run_on_gpus(["train", run_yaml])
    gap = largest_gap(read_losses(run_dir), on_cpu)
    print(f"\nlargest difference of a step's loss to the CPU's, {precision}: {gap:.2e}")
    assert gap < (FP32_BOUND if precision == "fp32" else NARROW_BOUND)
    assert all(not step.get("skipped") for step in read_steps(run_dir)[5:]), "the loss scale has found its place"


def test_auto_is_a_narrow_forward_and_a_budget_for_gpus(write_run):
    run_yaml, run_dir = write_run("auto", train={"max_steps": 1, "token_budget": "auto", "precision": "auto"})
    run_on_gpus(["train", run_yaml])
    settled = yaml.safe_load((run_dir / "config.yaml").read_text())["train"]
    assert settled["precision"] in ("bf16", "fp16")
    assert settled["token_budget"] in (8192, 32768)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(write_run, precision):
    settings = {
        "run": {"deterministic": True},
        "train": {"precision": precision, "max_steps": 200, "epochs": 10, "save_every_steps": 50},
        "model": {"dropout": 0.1},
    }
    whole_yaml, whole_dir = write_run("whole", **settings)
    run_on_gpus(["train", whole_yaml])
    run_yaml, run_dir = write_run("stopped", **settings)
    with start_on_gpus(["train", run_yaml]) as ranks:
        wait_for_steps(run_dir, 20)
        ranks.send_signal(signal.SIGTERM)
        check_ranks_succeeded(ranks.wait(TIMEOUT_SECONDS))
    assert len(read_steps(run_dir)) < 200, "the stop came too late to show anything"
    run_on_gpus(["train", run_yaml])
    assert [step["step"] for step in read_steps(run_dir)] == list(range(1, 201))
    losses = largest_gap(read_losses(run_dir), read_losses(whole_dir))
    weights = largest_difference(read_weights(run_dir), read_weights(whole_dir))
    print(f"\nafter a stop, {precision}: losses differ by {losses:.1e}, weights by {weights:.1e}")
    assert losses == weights == 0.0, "deterministic kernels, and everything that a step depends on is kept"


def wait_for_steps(run_dir, number):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    path = run_dir / "metrics.jsonl"
    while not path.exists() or path.read_text().count('"loss"') < number:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def deberta(tmp_path, tiny_model):
    """A DeBERTa-v3 of two layers with the tiny model's tokenizer."""
    folder = tmp_path / "deberta"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = DebertaV2Config(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        relative_attention=True, position_buckets=16, max_position_embeddings=128, pos_att_type=["p2c", "c2p"],
        share_att_key=True, norm_rel_ebd="layer_norm", type_vocab_size=0, position_biased_input=False,
    )  # fmt: skip
    DebertaV2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_fast_attention_and_transformers_give_the_same_losses(write_run, tiny_model, deberta, kind):
    losses = {}
    for attention in ("transformers", "auto"):
        name = str(tiny_model if kind == "bert" else deberta)
        model = {"name": name, "attention": attention}
        run_yaml, run_dir = write_run(attention, train={"precision": "fp32", **STEPS}, model=model)
        run_on_gpus(["train", run_yaml])
        losses[attention] = read_losses(run_dir)
    gap = largest_gap(losses["auto"], losses["transformers"])
    print(f"\nauto against transformers' attention, {kind}: {gap:.1e}")
    assert gap < FP32_BOUND
