"""Kept baselines: the same bits as fitted ones, found by content alone, never believed when damaged."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pref_dist.config.load import load_config, with_values
from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_care import CleanRequest, clean, list_entries, verify_entries
from pref_dist.data.folds import Rows
from pref_dist.data.kept_chances import Chances, list_kept, list_unfinished
from pref_dist.data.prepare import Prepared, prepare
from pref_dist.errors import DataError
from pref_dist.evaluate.baseline_cache import baseline_chances, fold_baseline_chances
from pref_dist.evaluate.baselines import fit_baselines
from pref_dist.evaluate.texts import pick
from pref_dist.train.out_of_fold import plan_folds


@pytest.fixture
def config(write_run, tmp_path, sample_dir) -> RunConfig:
    """A run on a copy of the sample, whose cache folder is empty."""
    copy = tmp_path / "train.csv"
    copy.write_bytes((sample_dir / "train.csv").read_bytes())
    path, _ = write_run(data={"train": str(copy), "cache_dir": str(tmp_path / "cache")})
    return load_config(path, [])


def open_rows(config: RunConfig) -> Prepared:
    return prepare(config, Path(config.model.name))


def fit_or_find(config: RunConfig, said: list[str] | None = None) -> Chances:
    prepared = open_rows(config)
    say = (lambda text: None) if said is None else said.append
    return baseline_chances(config, prepared, prepared.valid_table, prepared.valid_rows, say)


def fit_directly(config: RunConfig, train: Rows, scored: Rows) -> Chances:
    table = open_rows(config).train_table
    fitted = fit_baselines(pick(config.data, table, train), config.run.seed, table.weights[train])
    return fitted.predict(pick(config.data, table, scored))


def check_same_bits(one: Chances, other: Chances) -> None:
    assert list(one) == list(other) == ["class_prior", "length_tree", "tfidf_logistic"]
    assert all(np.array_equal(one[name], other[name]) and one[name].dtype == np.float64 for name in one)


def kept_in(config: RunConfig) -> list[Path]:
    return list_kept(Path(str(config.data.cache_dir)))


def test_kept_baselines_are_the_fitted_ones_to_the_bit_and_texts_are_read_once(config):
    prepared, said = open_rows(config), []
    fitted = fit_or_find(config, said)
    check_same_bits(fitted, fit_directly(config, prepared.train_rows, prepared.valid_rows))
    Path(str(config.data.train)).unlink()
    found = baseline_chances(config, prepared, prepared.valid_table, prepared.valid_rows, said.append)
    check_same_bits(found, fitted)
    assert said == [f"Fitting the baselines on {len(prepared.train_rows)} rows."]


def test_other_tokens_of_the_same_rows_find_what_is_kept_and_another_seed_or_weight_does_not(config):
    fit_or_find(config)
    fit_or_find(with_values(config, data__max_tokens=64))
    assert len(kept_in(config)) == 1
    # The split is a hash of the seed, so that all three decide over the rows, too.
    fit_or_find(with_values(config, run__seed=4))
    source = {"path": str(config.data.train), "weight": 2.0}
    fit_or_find(with_values(config, data__train=None, data__sources=[source]))
    assert len(kept_in(config)) == 3


@pytest.mark.parametrize("damage", ["a flipped byte", "cut short", "empty", "another key's"])
def test_a_damaged_file_is_said_and_fitted_again(config, damage):
    fitted, (file,) = fit_or_find(config), kept_in(config)
    whole, said = bytearray(file.read_bytes()), []
    if damage == "another key's":
        fit_or_find(with_values(config, run__seed=4))
        (other,) = set(kept_in(config)) - {file}
        file.write_bytes(other.read_bytes())
    elif damage == "a flipped byte":
        whole[-5] ^= 1
        file.write_bytes(whole)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else b"")
    assert [entry.kind for entry in verify_entries(file.parents[1]) if entry.damage] == ["baselines"]
    check_same_bits(fit_or_find(config, said), fitted)
    assert str(file) in said[0]
    assert "damaged" in said[0]
    assert not [entry for entry in verify_entries(file.parents[1]) if entry.damage]


def test_processes_that_fit_at_once_all_succeed_with_the_same_bits(config):
    open_rows(config)
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        first, *others = [future.result() for future in [pool.submit(fit_or_find, config) for _ in range(3)]]
    for other in others:
        check_same_bits(other, first)
    check_same_bits(fit_or_find(config), first)
    assert len(kept_in(config)) == 1
    assert not list_unfinished(kept_in(config)[0].parents[1])


def test_a_place_that_cannot_be_written_costs_the_time_alone(config):
    open_rows(config)
    (Path(str(config.data.cache_dir)) / "baselines").write_text("no folder")
    said: list[str] = []
    prepared = open_rows(config)
    check_same_bits(fit_or_find(config, said), fit_directly(config, prepared.train_rows, prepared.valid_rows))
    assert "the next evaluation fits them again" in said[-1]


def test_a_source_that_changes_after_its_tokens_were_read_is_an_error(config):
    prepared, path = open_rows(config), Path(str(config.data.train))
    frame = pd.read_csv(path, dtype=str)
    frame["response_a"] = frame["response_b"]
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"train\.csv was changed while it was in use"):
        baseline_chances(config, prepared, prepared.valid_table, prepared.valid_rows)
    assert not kept_in(config)


def test_each_folds_rows_are_scored_by_baselines_of_the_other_folds_in_the_order_of_the_table(config):
    folded = with_values(config, data__num_folds=3)
    plan = plan_folds(folded, limit=None)
    folds = [(plan.trained_by(fold), plan.scored_by(fold)) for fold in range(3)]
    joined = fold_baseline_chances(folded, plan.table, folds)
    order = plan.rows[plan.is_scored]
    for train, scored in folds:
        own = {name: chances[np.isin(order, scored)] for name, chances in joined.items()}
        check_same_bits(own, fit_directly(folded, train, scored))
    # A fold's own run finds what was kept here.
    fit_or_find(with_values(folded, data__fold=1))
    assert len(kept_in(config)) == 3


def test_cache_care_lists_and_removes_baselines_by_age_damage_or_all(config):
    fit_or_find(config)
    (file,), cache_dir = kept_in(config), Path(str(config.data.cache_dir))
    (entry,) = (entry for entry in list_entries(cache_dir) if entry.kind == "baselines")
    assert (entry.num_rows, entry.num_bytes) == (len(open_rows(config).valid_rows), file.stat().st_size)
    assert entry.built_from == config.data.train
    unfinished = file.with_name(f".{file.name}.123.tmp")
    unfinished.write_bytes(b"half")
    assert [one.name for one in clean(cache_dir, CleanRequest())] == [unfinished.name]
    long_ago = time.time() - 40 * 86_400
    os.utime(file, (long_ago, long_ago))
    old = CleanRequest(older_than_days=30, dry_run=True)
    assert [one.name for one in clean(cache_dir, old)] == [entry.key]
    assert file.exists()
    clean(cache_dir, CleanRequest(older_than_days=30))
    assert [entry.kind for entry in list_entries(cache_dir)] == ["tokens"]
    fit_or_find(config)
    clean(cache_dir, CleanRequest(everything=True))
    assert not list_entries(cache_dir)
