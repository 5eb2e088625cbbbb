"""Both orders of A and B, and what is kept of an interrupted pass: by real models in this process."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pref_dist.errors import ConfigError
from pref_dist.evaluate.logits_file import logits_of_table, read_logits, write_logits
from pref_dist.evaluate.orders import answer_rows, cut_slices
from pref_dist.evaluate.restore import read_run_config, restore_run
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import stand_alone
from tests.ranks.many_runs import run_jobs
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]
SETTINGS = {"max_steps": 3, "learning_rate": 5e-3, "rows_per_step": 16, "token_budget": 2000}
SWAP = "evaluate.swap=full"


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A joint run, validated in both orders, a siamese one and one of a notebook's template."""
    folder = tmp_path_factory.mktemp("orders")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    sections = {
        "joint": {"evaluate": {"swap": "selective", "swap_share": 0.5}},
        "siamese": {"model": {"kind": "siamese", "head": "antisymmetric"}},
        "seed": {"data": {"template": "seed_joint", "truncation": "right"}},
    }
    written = {name: runs.write(name, train=SETTINGS, **changes) for name, changes in sections.items()}
    run_jobs("single", 1, [{"config": str(run_yaml)} for run_yaml, _ in written.values()], folder)
    return {name: run_dir for name, (_, run_dir) in written.items()}


@pytest.fixture
def restore(run_dirs):
    """Return a function that opens a run in this process."""

    def open_run(name, *overrides):
        run_dir = RunDir(run_dirs[name])
        return restore_run(read_run_config(run_dir, overrides), run_dir, None, stand_alone())

    return open_run


def all_rows(table):
    return np.arange(len(table), dtype=np.int64)


def exchange(source, target):
    """Write a file whose rows are those of another one with their responses exchanged."""
    table = pd.read_csv(source, dtype=str, keep_default_na=False)
    table[["response_a", "response_b"]] = table[["response_b", "response_a"]].to_numpy()
    table.to_csv(target, index=False)
    return target


def count_lines(run):
    """Let the engine's forward count: (list of the lines of each batch, the forward)."""
    lines = []

    def forward(inputs, is_last=True):
        lines.append(len(inputs["input_ids"]))
        return run.engine.forward(inputs, is_last)

    return lines, forward


def test_the_second_order_is_the_answer_to_the_exchanged_file(restore, sample_dir, tmp_path):
    run = restore("joint", SWAP)
    table = run.open_rows(sample_dir / "test.csv", with_labels=False)
    found = run.infer(table, all_rows(table))
    exchanged = run.open_rows(exchange(sample_dir / "test.csv", tmp_path / "exchanged.csv"), with_labels=False)
    others = restore("joint", "evaluate.swap=none").infer(exchanged, all_rows(exchanged))
    assert others.second is None
    assert np.abs(found.second[:, [1, 0, 2]] - others.first).max() <= 1e-6
    assert np.abs(found.second - found.first).max() > 1e-3, "this model knows which response stands first"


def test_a_siamese_row_is_encoded_once_for_both_orders_which_agree(restore, sample_dir):
    asked, counted = {}, {}
    for swap in ("none", "selective", "full"):
        run = restore("siamese", f"evaluate.swap={swap}")
        table = run.open_rows(sample_dir / "test.csv", with_labels=False)
        counted[swap], forward = count_lines(run)
        asked[swap] = answer_rows(run.build_task(table, all_rows(table)), forward, run.parallel)
    assert counted["none"] == counted["full"] == counted["selective"]
    assert sum(counted["full"]) == 2 * len(table)
    assert asked["selective"].has_both.all()
    assert np.abs(asked["full"].first - asked["none"].first).max() <= 1e-6
    assert np.abs(asked["full"].first - asked["full"].second).max() <= 1e-6


def test_training_validates_in_both_orders_and_its_file_keeps_them(run_dirs):
    found = read_logits(run_dirs["joint"] / "valid_logits.parquet")
    best = json.loads((run_dirs["joint"] / "best.json").read_text())
    assert found.answers.has_both.sum() == -(-len(found) // 2)
    assert np.array_equal(found.logits, found.answers.logits)
    chosen = np.exp(found.logits - np.logaddexp.reduce(found.logits, axis=1, keepdims=True))
    assert abs(-(found.targets * np.log(chosen)).sum(axis=1).mean() - best["log_loss"]) <= 1e-12
    assert read_logits(run_dirs["siamese"] / "valid_logits.parquet").answers is None


def test_a_pass_that_broke_off_goes_on_with_what_is_missing_to_the_same_bits(restore, sample_dir, tmp_path, capsys):
    run = restore("joint", SWAP)
    table = run.open_rows(sample_dir / "test.csv", with_labels=False)
    task = run.build_task(table, all_rows(table))
    lines, forward = count_lines(run)
    whole = answer_rows(task, forward, run.parallel)
    num_batches = len(lines)
    first = tmp_path / "first"
    run.infer(table, all_rows(table), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second_00"}
    (part,) = first.glob("*.part")

    lines.clear()
    again = answer_rows(task, forward, run.parallel, run.keep_in(tmp_path, table))
    assert not lines, "all batches are there"
    assert np.array_equal(again.logits, whole.logits)

    part.write_bytes(part.read_bytes()[:-4] + b"\0\0\0\0")  # the last logit
    again = answer_rows(task, forward, run.parallel, run.keep_in(tmp_path, table))
    assert len(lines) == num_batches // 2, "a damaged part is run again, and the pass after it is not"
    assert np.array_equal(again.logits, whole.logits)
    assert "1 files of finished batches" in capsys.readouterr().err


def test_parts_of_other_weights_rows_or_budgets_are_not_taken(restore, sample_dir, tmp_path, capsys):
    run = restore("joint", "evaluate.swap=none")
    table = run.open_rows(sample_dir / "test.csv", with_labels=False)
    run.infer(table, all_rows(table), tmp_path)
    other_step = replace(run, step=run.step + 1)
    other_budget = restore("joint", "evaluate.swap=none", "evaluate.token_budget=400")
    for case in (
        lambda: other_step.infer(table, all_rows(table), tmp_path),
        lambda: other_step.infer(table, all_rows(table)[1:], tmp_path),
        lambda: other_budget.infer(table, all_rows(table), tmp_path),
    ):
        before = {path.name for path in (tmp_path / "first").iterdir()}
        found = case()
        assert not before & {path.name for path in (tmp_path / "first").iterdir()}
        assert "were thrown away" in capsys.readouterr().err
        assert np.isfinite(found.first).all()


def test_rows_without_the_second_order_are_null_in_the_file(restore, sample_dir, tmp_path):
    run = restore("joint", "evaluate.swap=selective", "evaluate.swap_share=0.2")
    table = run.open_rows(sample_dir / "test_labels.csv")
    found = run.infer(table, all_rows(table))
    write_logits(tmp_path / "logits.parquet", logits_of_table(table, all_rows(table), found, None))
    frame = pd.read_parquet(tmp_path / "logits.parquet")
    assert frame["second_logit_a"].notna().sum() == 12
    assert frame["first_logit_tie"].notna().all()
    back = read_logits(tmp_path / "logits.parquet")
    assert np.array_equal(back.answers.second, found.second, equal_nan=True)
    assert np.array_equal(back.logits, found.logits)


def test_slices_under_a_time_limit_hold_each_chosen_row_once_the_most_uncertain_first(restore, sample_dir):
    run = restore("joint", SWAP, "evaluate.token_budget=96")
    table = run.open_rows(sample_dir / "test.csv", with_labels=False)
    task = run.build_task(table, all_rows(table))
    places = np.random.default_rng(0).permutation(len(table))
    slices = cut_slices(task, places)
    assert len(slices) > 1
    assert np.concatenate(slices).tolist() == places.tolist()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.swap=full", r"evaluate\.swap=full with data\.template=seed_joint .*cut otherwise"),
        ("evaluate.swap_share=0", r"evaluate\.swap_share: .*greater than 0 .*found: 0"),
        ("evaluate.swap=both", r"evaluate\.swap: .*'none', 'full' or 'selective'.*found: 'both'"),
    ],
)
def test_what_cannot_be_swapped_is_refused_before_any_work(run_dirs, override, message):
    with pytest.raises(ConfigError, match=message):
        read_run_config(RunDir(run_dirs["seed"]), [override])
