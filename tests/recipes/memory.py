"""What a recipe needs of a device's memory, calculated from the published model's sizes without its weights.

    python -m tests.recipes.memory

prints it for every recipe. Activations are what autograd keeps of one forward of the fullest micro-batch, with tensors
that have shapes and types alone; what a forward and a backward need for moments comes on top.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pref_dist.config.load import load_config
from pref_dist.config.model_section import ModelSection
from pref_dist.config.schema import RunConfig
from pref_dist.models.model_config import read_model_config
from pref_dist.runtime.budgets import OF_A_GPU, resolve_budget
from tests.recipes.families import FAMILIES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BYTES_A_PARAMETER = 16  # fp32: the value, AdamW's two moments, the gradient
BYTES_BF16, BYTES_FP32 = 2, 4
GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Parameters are the backbone's; the head's are fewer than 1 % of them. Bytes without parallel.* sharing."""

    num_frozen: int
    frozen_bytes: int
    num_trained: int
    activation_bytes: int

    @property
    def trained_bytes(self) -> int:
        return BYTES_A_PARAMETER * self.num_trained


def calculate_memory(config: RunConfig) -> Memory:
    """Return what the run needs on one rank, its model being one of FAMILIES."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    published = read_published(config.model)
    num_layers = published.num_hidden_layers
    # Layers that are computed again are alike, so that one of them is enough.
    recomputes = config.parallel.activation_checkpointing
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        backbone = build_empty(published)
        num_backbone = sum(parameter.numel() for parameter in backbone.parameters())
        frozen_bytes, num_adapters = describe_adapters(backbone, config)
        if recomputes:
            published.num_hidden_layers = 1
            published.layer_types = published.layer_types[:1]
            backbone = build_empty(published)
        kept = count_kept_bytes(backbone, config)
    if recomputes:
        kept += num_layers * budget_of(config) * published.hidden_size * BYTES_FP32
    if config.model.lora is None:
        return Memory(0, 0, num_backbone, kept)
    return Memory(num_backbone, frozen_bytes, num_adapters, kept)


def budget_of(config: RunConfig) -> int:
    """Return train.token_budget; auto: of a GPU that is not one of the largest."""
    return resolve_budget(config.train.token_budget, OF_A_GPU.train, config)


def read_published(settings: ModelSection) -> Any:
    """Return the published model's config with the recipe's dropouts."""
    with TemporaryDirectory() as folder:
        FAMILIES[settings.name].config().save_pretrained(folder)
        return read_model_config(settings, Path(folder))


def build_empty(published: Any) -> Any:
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return AutoModel.from_config(published).train()


def describe_adapters(backbone: Any, config: RunConfig) -> tuple[int, int]:
    """Return the bytes of the frozen weights, in bf16 but for the table of embeddings, and the adapters' parameters."""
    from torch import nn

    lora = config.model.lora
    if lora is None:
        return 0, 0
    assert (lora.base, lora.modules, lora.dora) == ("bf16", "all-linear", False)
    linear = [part for part in backbone.modules() if isinstance(part, nn.Linear)]
    num_adapters = sum(lora.rank * (part.in_features + part.out_features) for part in linear)
    num_table = backbone.get_input_embeddings().weight.numel()
    num_all = sum(parameter.numel() for parameter in backbone.parameters())
    return BYTES_BF16 * (num_all - num_table) + BYTES_FP32 * num_table, num_adapters


def count_kept_bytes(backbone: Any, config: RunConfig) -> int:
    """Return the bytes that autograd keeps for the backward of the fullest micro-batch of the longest rows."""
    import torch

    shape = (budget_of(config) // config.data.max_tokens, config.data.max_tokens)
    inputs = {name: torch.ones(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    weights = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that its number is not given to another
        return tensor

    is_narrow = config.train.precision != "fp32"  # auto: on a GPU
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_narrow),
    ):
        backbone(**inputs)
    return sum(storage.nbytes() for storage in kept.values())


def render(name: str, memory: Memory) -> str:
    frozen = f"{memory.num_frozen / 1e6:.1f}M frozen = {memory.frozen_bytes / GB:.1f} GB, " if memory.num_frozen else ""
    trained = f"{memory.num_trained / 1e6:.1f}M parameters x 16 bytes = {memory.trained_bytes / GB:.1f} GB"
    return f"{name:24}{frozen}{trained}, activations {memory.activation_bytes / GB:.1f} GB"


def main() -> None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        print(render(path.stem, calculate_memory(load_config(path))))


if __name__ == "__main__":
    sys.exit(main())
