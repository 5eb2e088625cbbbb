"""A run keeps the token budgets that its first start has settled."""

import pytest
import yaml

from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import run_verb

pytestmark = pytest.mark.ranks
AUTO = {"token_budget": "auto"}


def train(run_yaml, *more):
    results = run_verb("single", 1, ["train", str(run_yaml), *map(str, more)])
    check_ranks_succeeded(results)
    return results[0].stdout


def budgets_of(run_dir):
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    return config["train"]["token_budget"], config["evaluate"]["token_budget"]


def test_auto_is_settled_at_the_first_start_printed_and_kept(write_run):
    run_yaml, run_dir = write_run("auto", train={"max_steps": 1, **AUTO}, evaluate=AUTO)
    assert "of at most 2,048 tokens, in evaluation 4,096" in train(run_yaml)
    assert budgets_of(run_dir) == (2048, 4096)
    # As if the first start had been elsewhere.
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("token_budget: 2048", "token_budget: 1999"))
    train(run_yaml, "--accept-changes", "--set", "train.max_steps=2")
    assert budgets_of(run_dir) == (1999, 4096)
    check_ranks_succeeded(run_verb("single", 1, ["evaluate", str(run_dir), "--set", "evaluate.token_budget=auto"]))
