"""A head that no weight file holds, under ZeRO: the seed's on all ranks, trained, saved, and loaded the same.

transformers #17336 and DeepSpeed #7669: there it stayed poor in silence under stage 3.
"""

import numpy as np
import pytest

from pref_dist.evaluate.logits_file import read_logits
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import read_weights, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]

HEAD = ("classifier.weight", "classifier.bias")
SETTINGS = {"train": {"max_steps": 8, "save_every_steps": 1, "keep_last": 8, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def heads():
    return {}


@pytest.fixture
def head_of_one_process(heads, write_run):
    """Return the head after 1 and after 8 steps of one process."""
    if not heads:
        run_yaml, run_dir = write_run("single", **SETTINGS)
        check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
        heads.update({step: read_weights(run_dir, step) for step in (1, 8)})
    return heads


@pytest.mark.parametrize("backend", ["zero1", "zero2", "zero3"])
def test_a_new_head_is_trained_saved_and_gives_identical_logits_when_loaded_again(
    write_run, head_of_one_process, backend
):
    run_yaml, run_dir = write_run(backend, **SETTINGS)
    check_ranks_succeeded(run_verb(backend, 2, ["train", str(run_yaml)]))
    first, last = read_weights(run_dir, 1), read_weights(run_dir, 8)
    for name in HEAD:
        # After one step of 1e-3 weights have moved by as much; another initialisation would be off by .02.
        assert np.abs(first[name] - head_of_one_process[1][name]).max() < 1e-5
        assert np.abs(last[name] - head_of_one_process[8][name]).max() < 1e-4
        assert np.abs(last[name] - first[name]).max() > 1e-3
    check_ranks_succeeded(run_verb("single", 1, ["evaluate", str(run_dir), "--checkpoint", "8", "--no-baselines"]))
    trained = read_logits(run_dir / "valid_logits.parquet")
    again = read_logits(run_dir / "evaluations" / "valid_8" / "logits.parquet")
    assert trained.row_ids == again.row_ids
    assert np.array_equal(trained.logits, again.logits)
