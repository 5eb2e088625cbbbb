"""The rate and the end of a run as evaluations decide them: against Keras' rules, and against counting by hand."""

import json
import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pref_dist.config.load import build_config, list_changes
from pref_dist.data.plan import Plan
from pref_dist.errors import ConfigError
from pref_dist.optim import Plateau, learning_rate_factor
from pref_dist.train.evaluations import evaluates_after, warn_of_few_evaluations
from pref_dist.train.resume import Progress
from pref_dist.train.stopping import is_out_of_patience, note_scores

# Differences around the 1e-4 that decides must come up, and repetitions.
log_losses = st.lists(
    st.one_of(st.floats(0.0, 2.0), st.integers(10_000, 10_010).map(lambda number: number * 1e-4)), max_size=40
)


def rates_of_keras(log_losses, patience, factor, min_delta=1e-4):
    """Yield the rate after each evaluation, from 1 on: Keras 3's ReduceLROnPlateau without cooldown and min_lr."""
    best, wait, rate = np.inf, 0, 1.0
    for current in log_losses:
        if np.less(current, best - min_delta):
            best, wait = current, 0
        else:
            wait += 1
            if wait >= patience:
                rate, wait = rate * factor, 0
        yield rate


def end_of_keras(log_losses, patience):
    """Return (evaluation that ends the training, the best one), from 0 on: Keras 3's EarlyStopping."""
    best, best_place, wait = None, 0, 0
    for place, current in enumerate(log_losses):
        wait += 1
        if best is None or np.less(current, best):
            best, best_place, wait = current, place, 0
        elif wait >= patience:
            return place, best_place
    return None, best_place


@given(log_losses, st.integers(1, 4), st.sampled_from([0.5, 0.1, 0.9]))
def test_the_plateau_rule_is_that_of_keras(log_losses, patience, factor):
    plateau, scales = Plateau(), []
    for log_loss in log_losses:
        plateau = plateau.after(log_loss, patience, factor)
        scales.append(plateau.scale)
    assert scales == list(rates_of_keras(log_losses, patience, factor))


def test_with_patience_1_every_evaluation_that_is_not_better_halves_the_rate():
    plateau, scales = Plateau(), []
    for log_loss in (1.0, 0.9, 0.89995, 0.8998, 0.95, 0.95):
        plateau = plateau.after(log_loss, patience=1, factor=0.5)
        scales.append(plateau.scale)
    assert scales == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]


@given(log_losses.filter(len), st.integers(1, 4))
def test_early_stopping_ends_a_run_where_keras_does_and_keeps_its_best(log_losses, patience):
    progress, end = Progress(), None
    for place, log_loss in enumerate(log_losses):
        progress.step = 10 * (place + 1)
        assert not is_out_of_patience(progress, patience), "only an evaluation ends a run"
        note_scores(progress, {"step": progress.step, "log_loss": log_loss})
        if is_out_of_patience(progress, patience):
            end = place
            break
    assert (end, progress.best_step // 10 - 1) == end_of_keras(log_losses, patience)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_constant_rate_rises_like_the_others_and_stays_at_the_peak(schedule):
    factors = [learning_rate_factor(step, 100, 0.1, schedule) for step in range(100)]
    assert factors[:10] == [learning_rate_factor(step, 100, 0.1, "linear") for step in range(10)]
    assert factors[10:] == [1.0] * 90


def test_the_old_schedules_have_not_changed_by_a_bit():
    for step in range(30):
        progress = (step - 3) / 27
        linear, cosine = (
            [(step + 1) / 4] * 2 if step < 3 else [1.0 - progress, 0.5 * (1.0 + math.cos(math.pi * progress))]
        )
        assert learning_rate_factor(step, 30, 0.1, "linear") == linear
        assert learning_rate_factor(step, 30, 0.1, "cosine") == cosine


def make_plan(steps_per_epoch, epochs, max_steps=None):
    return Plan(
        rows=np.arange(steps_per_epoch), lengths=np.full(steps_per_epoch, 5), rows_per_step=1, token_budget=10,
        micro_batch_multiple=1, seed=0, epochs=epochs, max_steps=max_steps,
    )  # fmt: skip


def evaluated_steps(plan, **evaluate):
    config = build_config({"evaluate": evaluate}, where="a test")
    return [step for step in range(1, plan.num_steps + 1) if evaluates_after(config.evaluate, plan, step)]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 300))
def test_a_run_evaluates_at_the_first_step_after_each_fraction_of_an_epoch_and_at_its_end(
    steps_per_epoch, epochs, hundredths
):
    plan = make_plan(steps_per_epoch, epochs)
    every = Fraction(hundredths, 100)
    expected = {math.ceil(number * every * steps_per_epoch) for number in range(1, 1 + math.floor(epochs / every))}
    found = evaluated_steps(plan, every_epochs=hundredths / 100)
    assert found == sorted(expected | {plan.num_steps})


def test_a_quarter_of_an_epoch_that_does_not_divide_the_steps_still_gives_four_evaluations_an_epoch():
    assert evaluated_steps(make_plan(7, 2), every_epochs=0.25) == [2, 4, 6, 7, 9, 11, 13, 14]


def test_a_fraction_that_no_float_holds_is_not_a_step_late():
    assert 0.07 * 100 > 7
    assert evaluated_steps(make_plan(100, 1), every_epochs=0.07)[:3] == [7, 14, 21]


def test_both_ways_to_say_when_to_evaluate_count():
    assert evaluated_steps(make_plan(6, 1), every_epochs=0.5, every_steps=4) == [3, 4, 6]
    assert evaluated_steps(make_plan(6, 1), every_epochs=None) == [6]


def test_settings_that_can_do_nothing_are_said_at_the_start():
    train = {"schedule": "plateau", "plateau_patience": 2, "early_stop_patience": 5}
    config = build_config({"train": train}, where="a test")  # evaluates once an epoch
    (warning,) = warn_of_few_evaluations(config, make_plan(3, 6))
    assert warning.startswith(
        "train.early_stop_patience=5 can do nothing: the run evaluates 5 times before its end, and 6"
    )
    assert warn_of_few_evaluations(config, make_plan(3, 7)) == []
    assert len(warn_of_few_evaluations(config, make_plan(3, 3))) == 2
    assert warn_of_few_evaluations(build_config({}, where="a test"), make_plan(3, 1)) == []


@pytest.mark.parametrize("setting", [{"plateau_factor": 0.1}, {"plateau_patience": 3}])
def test_plateau_settings_without_its_schedule_are_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"{name}=.* needs schedule=plateau, not linear"):
        build_config({"train": setting}, where="a test")
    assert build_config({"train": setting | {"schedule": "plateau"}}, where="a test")


def test_the_patience_may_change_when_a_run_goes_on_and_no_other_of_these_settings():
    old = build_config({"train": {"schedule": "plateau"}}, where="a test")
    changes = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.1, "early_stop_patience": 3}
    new = build_config({"train": changes}, where="a test")
    assert list_changes(old, new) == ["train.plateau_patience: 1 -> 2", "train.plateau_factor: 0.5 -> 0.1"]


def test_progress_survives_json_and_that_of_an_older_version_is_readable():
    progress = Progress(step=7, evaluated_step=6, evaluations_since_best=2, plateau=Plateau(0.9, 1, 0.25))
    assert Progress.from_json(json.loads(json.dumps(asdict(progress)))) == progress
    older = {"step": 7, "skipped_in_row": 0, "skipped_steps": 0, "best": None, "evaluated_step": 6, "seconds": 1.0}
    assert Progress.from_json(older) == Progress(step=7, evaluated_step=6, seconds=1.0)
