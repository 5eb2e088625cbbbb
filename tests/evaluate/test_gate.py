"""The baseline gate: three grades with known answers, and models that sit at the prior."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from pref_dist.config.load import load_config
from pref_dist.data.synthetic_rows import draw_rows
from pref_dist.errors import DataError
from pref_dist.evaluate.gate import judge_gate, warn_of_gate
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.train.run import train

SHARES = (0.5, 0.3, 0.2)


def draw_labels(num_rows: int, seed: int = 0):
    """One-hot targets (N, 3) of classes with SHARES, each prompt twice, and those prompts."""
    labels = np.random.default_rng(seed).choice(3, size=num_rows, p=SHARES)
    return np.eye(3)[labels], np.repeat(np.arange(num_rows // 2, dtype=np.uint64), 2)


def lean(targets, strength: float):
    """Probabilities that lean from SHARES to the real class; a strength below 0 leans away from it."""
    leaning = np.array(SHARES) * np.exp(strength * targets)
    return leaning / leaning.sum(axis=1, keepdims=True)


def judge(model: float, **baselines: float):
    targets, groups = draw_labels(2000)
    chances = {"class_prior": lean(targets, 0.0), **{name: lean(targets, value) for name, value in baselines.items()}}
    return judge_gate(chances, np.log(lean(targets, model)), targets, groups)


def test_baselines_and_gain_are_scikit_learns_log_losses():
    targets, _ = draw_labels(2000)
    found = judge(0.5, length_tree=0.2, tfidf_logistic=0.3)
    losses = {value: log_loss(targets.argmax(1), lean(targets, value)) for value in (0.0, 0.2, 0.3, 0.5)}
    for name, value in (("class_prior", 0.0), ("length_tree", 0.2), ("tfidf_logistic", 0.3)):
        assert found["baselines"][name]["log_loss"] == pytest.approx(losses[value], abs=1e-12)
        low, high = found["baselines"][name]["interval"]
        assert low < found["baselines"][name]["log_loss"] < high
    assert found["gate"]["nearest"] == "tfidf_logistic"
    assert found["gate"]["gain"] == pytest.approx(losses[0.3] - losses[0.5], abs=1e-12)


def test_a_model_that_clearly_beats_every_baseline_passes_and_says_by_how_much():
    gate = judge(0.5, length_tree=0.2)["gate"]
    assert gate["passed"]
    assert not gate["is_prior"]
    low, high = gate["interval"]
    assert 0 < low < gate["gain"] < high
    assert "beats every baseline; the nearest, length tree" in gate["sentence"]
    assert f"{gate['gain']:.4f} nats (95 % interval {low:.4f} to {high:.4f})" in gate["sentence"]
    assert warn_of_gate(gate) == []


def test_a_gain_within_the_noise_passes_and_is_called_so():
    targets, groups = draw_labels(2000)
    tree = lean(targets, 0.5) * np.exp(np.random.default_rng(1).normal(0.0, 0.5, size=targets.shape))
    chances = {"class_prior": lean(targets, 0.0), "length_tree": tree / tree.sum(axis=1, keepdims=True)}
    gate = judge_gate(chances, np.log(lean(targets, 0.36)), targets, groups)["gate"]
    assert gate["passed"]
    assert gate["gain"] > 0 >= gate["interval"][0]
    assert "may be chance" in gate["sentence"]
    assert warn_of_gate(gate) == []


def test_a_model_that_does_not_beat_a_baseline_fails_and_the_best_one_is_named_first():
    gate = judge(0.2, length_tree=0.3, tfidf_logistic=0.5)["gate"]
    assert not gate["passed"]
    assert gate["gain"] < 0
    assert gate["interval"][1] < 0
    beginning, end = gate["sentence"].split(": it has learnt too little")
    assert beginning.index("tfidf logistic") < beginning.index("length tree")
    assert f"{-gate['gain']:.4f} nats (95 % interval {-gate['interval'][1]:.4f} to" in end
    assert "train.epochs" in warn_of_gate(gate)[0]


def test_the_same_numbers_as_a_baseline_are_not_better_than_it():
    assert not judge(0.3, length_tree=0.3)["gate"]["passed"]


def test_one_prompt_has_no_interval_but_a_sentence():
    targets, _ = draw_labels(20)
    logits = np.log(lean(targets, 1.0))
    found = judge_gate({"class_prior": lean(targets, 0.0)}, logits, targets, np.zeros(20, dtype=np.uint64))
    assert found["gate"]["interval"] is None
    assert found["baselines"]["class_prior"]["interval"] is None
    assert found["gate"]["passed"]
    assert "one prompt" in found["gate"]["sentence"]


def test_no_rows_are_an_error():
    empty = np.zeros((0, 3))
    with pytest.raises(DataError):
        judge_gate({"class_prior": empty}, empty, empty, np.zeros(0, dtype=np.uint64))


def test_a_real_untrained_model_sits_at_the_prior_though_its_log_loss_is_worse(write_run):
    path, run_dir = write_run(train={"learning_rate": 1e-9, "max_steps": 1})
    train(load_config(path, []))
    logits = read_logits(run_dir / "valid_logits.parquet")
    prior = np.broadcast_to(logits.targets.mean(axis=0), (len(logits), 3))
    groups = np.arange(len(logits), dtype=np.uint64)
    gate = judge_gate({"class_prior": prior}, logits.logits.astype(np.float64), logits.targets, groups)["gate"]
    assert not gate["passed"]
    assert gate["is_prior"]
    assert "sits at the class prior" in gate["sentence"]
    assert "does not beat class prior" in gate["sentence"]
    assert warn_of_gate(gate)


def test_a_model_that_has_learnt_the_shares_alone_sits_at_the_prior_even_where_it_is_a_little_ahead():
    targets, groups = draw_labels(2000)
    noise = np.random.default_rng(2).normal(0.0, 0.01, size=targets.shape)
    gate = judge_gate({"class_prior": lean(targets, 0.0)}, np.log(lean(targets, 0.003)) + noise, targets, groups)[
        "gate"
    ]
    assert gate["passed"]
    assert gate["is_prior"]
    assert warn_of_gate(gate)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_best_possible_model_or_a_quarter_of_it_does_not_sit_at_the_prior(share):
    rows = draw_rows("test", 1500, seed=5)
    best, targets = np.array([row.probabilities for row in rows]), np.eye(3)[[row.winner for row in rows]]
    prior = np.broadcast_to(targets.mean(axis=0), best.shape)
    mixed = share * best + (1 - share) * prior
    gate = judge_gate({"class_prior": prior}, np.log(mixed), targets, np.arange(len(rows), dtype=np.uint64))["gate"]
    assert gate["passed"]
    assert not gate["is_prior"]
