"""What `auto` means for a token budget."""

import torch

from pref_dist.config.load import build_config
from pref_dist.runtime.budgets import OF_A_CPU, resolve_budget, settle_evaluation_budget, suggest_budgets

CPU = torch.device("cpu")


def config_of(max_tokens: int, kind: str = "joint", **evaluate: object):
    sections = {"data": {"max_tokens": max_tokens}, "model": {"kind": kind}, "evaluate": evaluate}
    return build_config(sections, "a test")


def test_a_cpu_gets_what_its_caches_hold():
    assert suggest_budgets(CPU) == OF_A_CPU
    assert resolve_budget("auto", suggest_budgets(CPU).train, config_of(512)) == 2048
    assert settle_evaluation_budget(config_of(512), CPU) == 4096


def test_the_longest_row_that_the_config_allows_fits():
    assert resolve_budget("auto", 2048, config_of(3000)) == 3000
    assert resolve_budget("auto", 2048, config_of(1500, kind="siamese")) == 3000, "two sequences of 1,500 tokens"


def test_a_number_that_was_asked_for_stays():
    assert resolve_budget(700, 2048, config_of(3000)) == 700
    assert settle_evaluation_budget(config_of(512, token_budget=900), CPU) == 900
