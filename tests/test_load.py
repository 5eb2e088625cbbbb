"""`pref_dist.load`: an exported folder gives other programs the run's own logits, where the run is no more."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pref_dist
from pref_dist.errors import CheckpointError, DataError, ModelError, PlanError
from pref_dist.export import export
from tests.exported_kinds import KINDS, infer_file, train_kinds

# What another program does; it also shows that the package itself is light.
PROGRAM = """
import json, sys
import pref_dist
assert not {"torch", "numpy", "transformers"} & set(sys.modules), "import pref_dist must be quick"
import numpy as np
import pandas as pd
rows = pd.read_csv(sys.argv[1])
found = {}
for folder in sys.argv[3:]:
    model = pref_dist.load(folder)
    found[folder.rpartition("/")[2]] = model.logits(rows)
    assert model.module.training is False
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """All kinds trained and exported, their logits of test.csv, and what another process got without the runs."""
    folder = tmp_path_factory.mktemp("loading")
    test = sample_dir / "test.csv"
    run_dirs = train_kinds(folder / "runs", sample_dir, tiny_model, cache_dir)
    expected = {kind: infer_file(run_dir, test) for kind, run_dir in run_dirs.items()}
    opened = pref_dist.load(run_dirs["segments"]).logits(pd.read_csv(test))
    outs = {kind: export(run_dir, folder / "exports" / kind).out for kind, run_dir in run_dirs.items()}
    (folder / "runs").rename(folder / "gone")
    subprocess.run([sys.executable, "-c", PROGRAM, test, folder / "found.npz", *outs.values()], check=True, timeout=200)
    return SimpleNamespace(
        test=test, expected=expected, outs=outs, opened=opened, found=np.load(folder / "found.npz"),
        finished=folder / "gone" / "segments",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(world):
    return pref_dist.load(world.outs["segments"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_another_process_the_runs_logits_when_the_run_is_gone(world, kind):
    expected, found = world.expected[kind], world.found[kind]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-5, "rows that all get the same would show nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_predict_takes_an_export_for_the_run(world, kind):
    expected, found = world.expected[kind], infer_file(world.outs[kind], world.test)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 if expected.dtype == np.float64 else 1e-6)


def test_a_run_folder_gives_the_logits_of_its_best_checkpoint(world):
    np.testing.assert_allclose(world.opened, world.expected["segments"], rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match="step_000099 does not exist"):
        pref_dist.load(world.finished, checkpoint="99")


def test_rows_are_dicts_of_strings_or_turns_or_a_table(world, model):
    table = pd.read_csv(world.test)
    records = table.to_dict("records")
    turns = [{name: json.loads(row[name]) for name in ("prompt", "response_a", "response_b")} for row in records]
    expected = model.logits(table)
    np.testing.assert_array_equal(model.logits(turns), expected)
    np.testing.assert_array_equal(model.logits(pd.DataFrame(turns)), expected)
    np.testing.assert_array_equal(model.logits(row for row in records), expected)
    single = [place for place, row in enumerate(turns) if len(row["prompt"]) == 1]
    plain = [{name: cell[0] for name, cell in turns[place].items()} for place in single]
    np.testing.assert_allclose(model.logits(plain), expected[single], rtol=0, atol=1e-6)
    mixed = [{**turns[place], "prompt": turns[place]["prompt"][0]} for place in single]
    np.testing.assert_allclose(model.logits(mixed), expected[single], rtol=0, atol=1e-6)


def test_probabilities_are_those_of_the_logits_and_sum_to_one(world, model):
    chances = model.predict(pd.read_csv(world.test))
    logits = world.expected["segments"].astype(np.float64)
    np.testing.assert_allclose(chances, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-7)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-12)
    assert model.predict([]).shape == (0, 3)


def test_a_rows_logits_do_not_depend_on_the_other_rows(world, model):
    rows = pd.read_csv(world.test)
    np.testing.assert_allclose(model.logits(rows[5:6]), model.logits(rows)[5:6], rtol=0, atol=1e-5)


def test_rows_that_cannot_be_read_are_named_with_the_reason(model):
    good = {"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}
    with pytest.raises(DataError, match=r"rows\[1\] lacks response_b\. A row is a dict"):
        model.logits([good, {"prompt": "x", "response_a": "y"}])
    with pytest.raises(DataError, match=r"rows\[0\] lacks prompt"):
        model.logits(["2 + 2?"])
    uneven = {**good, "prompt": ["one", "two"]}
    with pytest.raises(
        DataError, match=r"2 of 3 rows cannot be read \(first: rows\[1\]: turn_count_differs.*rows\[2\]"
    ):
        model.logits([good, uneven, {**good, "response_a": 4}])
    empty = dict.fromkeys(good, None)
    with pytest.raises(DataError, match="no_text"):
        model.logits([empty])


def test_a_missing_response_is_an_empty_one_as_in_a_file(model):
    good = {"prompt": "2 + 2?", "response_a": "4"}
    logits = [model.logits([{**good, "response_b": cell}]) for cell in (None, float("nan"), "", [None])]
    assert all(np.array_equal(logits[0], other) for other in logits)


def test_the_tokenizer_is_that_of_transformers_and_the_callers_random_numbers_stay(world):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tokenizer = pref_dist.load(world.outs["cls"], device="cpu").tokenizer
    assert torch.equal(torch.rand(3), expected)
    assert tokenizer("which one?")["input_ids"]


def test_the_batches_may_be_made_smaller(world, model):
    rows = pd.read_csv(world.test)
    small = pref_dist.load(world.outs["segments"], token_budget=128)
    np.testing.assert_allclose(small.logits(rows), model.logits(rows), rtol=0, atol=1e-5)
    with pytest.raises(PlanError, match="exceed"):
        pref_dist.load(world.outs["segments"], token_budget=32).logits(rows)


def test_a_folder_that_is_neither_export_nor_run_is_an_error_with_the_remedy(tiny_model, tmp_path):
    for folder in (tiny_model, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"neither an exported model .* nor a run folder.*pref-dist export"):
            pref_dist.load(folder)


def test_an_export_holds_one_step(world):
    with pytest.raises(ModelError, match=r"holds step \d+ alone; checkpoint=best"):
        pref_dist.load(world.outs["cls"], checkpoint="best")
