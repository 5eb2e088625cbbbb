"""What `auto` means for train.token_budget and evaluate.token_budget: what suits this kind of device."""

from typing import Literal, NamedTuple

import torch

from pref_dist.config.schema import RunConfig
from pref_dist.data.templates import num_sequences


class TokenBudgets(NamedTuple):
    """Most tokens of a micro-batch in training, and of a batch in evaluation, padding included."""

    train: int
    evaluate: int


# Measured, see EXPERIMENTS.md: larger ones leave a CPU's caches where rows are padded.
OF_A_CPU = TokenBudgets(2048, 4096)
# Large, because the host needs as long for a small micro-batch as for a large one: for DeBERTa-v3-large longer than an
# H100 needs for 15,000 tokens. Training halves what does not fit into the memory. 8,192 was not measured.
OF_A_GPU, OF_A_LARGE_GPU = TokenBudgets(8192, 16384), TokenBudgets(32768, 65536)
LARGE_GPU_BYTES = 60e9


def suggest_budgets(device: torch.device) -> TokenBudgets:
    """Return what a device likes, whatever the rows are."""
    if device.type == "cpu":
        return OF_A_CPU
    memory = torch.cuda.get_device_properties(device).total_memory
    return OF_A_LARGE_GPU if memory >= LARGE_GPU_BYTES else OF_A_GPU


def resolve_budget(asked: int | Literal["auto"], suggested: int, config: RunConfig) -> int:
    """Return the budget that was asked for; auto: `suggested`, but at least the longest row that the config allows."""
    if asked != "auto":
        return asked
    return max(suggested, num_sequences(config.data.template) * config.data.max_tokens)


def settle_evaluation_budget(config: RunConfig, device: torch.device) -> int:
    """Return evaluate.token_budget as a number."""
    return resolve_budget(config.evaluate.token_budget, suggest_budgets(device).evaluate, config)
