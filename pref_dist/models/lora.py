"""Low-rank adapters (LoRA, DoRA) beside the linear layers of a backbone whose own weights stay as they are, by peft.

Parameters keep their transformers names but for the adapted layers: `q_proj.weight` becomes `q_proj.base_layer.weight`,
beside `q_proj.lora_A.default.weight` and `q_proj.lora_B.default.weight` (and `q_proj.lora_magnitude_vector...`).
Sources: Hu et al. 2021 (LoRA), Liu et al. 2024 (DoRA).
"""

import importlib.util
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from pref_dist.config.model_section import LoraSection
from pref_dist.config.schema import Backend
from pref_dist.config.train_section import Precision
from pref_dist.errors import ConfigError
from pref_dist.models.layers import list_layers

ADAPTER = "default"


def add_adapters(module: nn.Module, backbone_name: str, settings: LoraSection, new: Collection[str], seed: int) -> None:
    """Freeze the backbone of a classifier and put an adapter beside the linear layers that the settings name.

    `new` are parameters that no weight file held: they are trained, as are everything outside the backbone and its
    pooler, which serves the head. The adapters depend on `seed` alone, not on the type of the frozen weights, and
    change no output before they are trained. Raises ConfigError if a module is not there.
    """
    from peft import LoraConfig, inject_adapter_in_model

    prefix = f"{backbone_name}."
    trained = {
        name: parameter
        for name, parameter in module.named_parameters()
        if name in new or not name.startswith(prefix) or ".pooler." in name
    }
    backbone = module.get_submodule(backbone_name)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,  # only ever divided by the rank
        lora_dropout=settings.dropout,
        target_modules=find_targets(backbone, settings, {name.removeprefix(prefix) for name in trained}),
        use_dora=settings.dora,
    )
    inject_adapter_in_model(config, backbone, ADAPTER)
    draw_adapters(backbone, seed)
    for parameter in trained.values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def find_targets(backbone: nn.Module, settings: LoraSection, trained: Collection[str]) -> list[str]:
    """Return the names of the linear layers that get an adapter; none whose own parameters are trained.

    Raises ConfigError if a module of the settings is not there.
    """
    linear = {name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)}
    linear -= {name.rpartition(".")[0] for name in trained}
    if settings.modules == "all-linear":
        layers = tuple(f"{name}." for name in list_layers(backbone))
        found = {name for name in linear if name.startswith(layers)}
        wanted: list[str] = []
    else:
        wanted = settings.modules
        found = {name for name in linear if any(is_called(name, module) for module in wanted)}
    missing = [module for module in wanted if not any(is_called(name, module) for name in linear)]
    if missing or not found:
        there = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(
            f"model.lora.modules={settings.modules}: {type(backbone).__name__} has no linear layer "
            f"{' and no '.join(missing) or 'in its layers'}. Its linear layers are {', '.join(there) or 'none'}."
        )
    return sorted(found)


def is_called(name: str, module: str) -> bool:
    """Whether a layer's full name is `module` or ends with it."""
    return name == module or name.endswith(f".{module}")


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by name, in the model's order."""
    from peft.tuners.lora import LoraLayer

    return {name: part for name, part in module.named_modules() if isinstance(part, LoraLayer)}


def draw_adapters(backbone: nn.Module, seed: int) -> None:
    """Draw the adapters in fp32 or wider, as peft itself does, which however takes the type of the frozen weights.

    A row of the first matrix is uniform within 1 / sqrt(inputs), the second matrix is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(backbone).values():
        first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        drawn = nn.init.kaiming_uniform_(torch.empty(first.weight.shape), a=math.sqrt(5), generator=generator)
        wide = torch.promote_types(first.weight.dtype, torch.float32)
        first.weight.data = drawn.to(first.weight.device, wide)
        second.weight.data = torch.zeros_like(second.weight, dtype=wide)
        if layer.lora_magnitude_vector:
            norms = weights_of(layer.get_base_layer()).norm(dim=1)
            layer.lora_magnitude_vector[ADAPTER].weight.data = norms.to(first.weight.device, wide)


def weights_of(linear: nn.Module) -> Tensor:
    """Return the weights (outputs, inputs) of a linear layer in fp32 or wider, whatever type they are kept in."""
    from peft.utils.integrations import dequantize_module_weight

    weights: Tensor = dequantize_module_weight(linear).detach()
    return weights.to(torch.promote_types(weights.dtype, torch.float32))


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter to the weight beside it and take it away; all weights are fp32 then, or wider.

    What is left has transformers' own classes and parameter names, and gives the same logits up to rounding.
    """
    for name, layer in adapted_layers(module).items():
        first, second = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        base = layer.get_base_layer()
        merged = weights_of(base) + layer.scaling[ADAPTER] * (second @ first).detach()
        if layer.lora_magnitude_vector:
            magnitudes = layer.lora_magnitude_vector[ADAPTER].weight.detach()
            merged *= (magnitudes / merged.norm(dim=1)).unsqueeze(1)
        plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device=merged.device)
        plain.weight, plain.bias = nn.Parameter(merged), base.bias
        parent, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(parent), own_name, plain)
    for part in module.modules():
        part.__dict__.pop("peft_config", None)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def keep_base_narrow(backbone: nn.Module) -> None:
    """Keep the matrices of linear layers and the table of embeddings in bf16 (or 4 bits, as loaded), all else in fp32.

    So that a forward in bf16 gives the same bits as with fp32 weights, if bf16 holds these exactly, as it does those
    of most published decoders: autocast rounds the matrices anyway, and the hidden states stay fp32.
    """
    for part in backbone.modules():
        # Others may compute with their table, as Gemma's does, which scales it.
        is_table = type(part) is nn.Embedding
        for name, parameter in part.named_parameters(recurse=False):
            is_narrow = name == "weight" and (is_table or isinstance(part, nn.Linear))
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16 if is_narrow else torch.float32)
        if is_table:
            part.register_forward_hook(widen_output)
        if hasattr(part, "scalar_embed_scale"):  # Gemma's factor, which was rounded when it was made in bf16
            part.embed_scale = torch.tensor(part.scalar_embed_scale, dtype=torch.float32)


def widen_output(part: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


def check_base(settings: LoraSection | None, precision: Precision, backend: Backend, device: torch.device) -> None:
    """Raise ConfigError if the type of the frozen weights is none that can be computed with here."""
    if settings is None or settings.base == "fp32":
        return
    asked = f"model.lora.base={settings.base}"
    if precision == "fp32":
        raise ConfigError(
            f"{asked} with train.precision=fp32: the layers would get fp32 inputs beside 16-bit weights. Set "
            "train.precision to bf16 or fp16, or model.lora.base=fp32."
        )
    if settings.base != "nf4":
        return
    instead = "Set model.lora.base=bf16 (four times the memory of the frozen weights)"
    if device.type != "cuda":
        raise ConfigError(f"{asked} runs on CUDA alone, and this process computes on {device.type}. {instead}.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{asked} needs the package bitsandbytes: pip install bitsandbytes. {instead}.")
    if backend not in ("single", "ddp"):
        raise ConfigError(
            f"{asked} runs on parallel.backend=single and ddp, not on {backend}, which cannot share 4-bit weights. "
            f"{instead}, or use ddp."
        )


def describe_nf4() -> dict[str, Any]:
    """Return what `from_pretrained` takes so that a backbone is in 4 bits on this rank's GPU (Dettmers et al. 2023).

    Not run on this project's machines, which have no GPU: the call is that of transformers' documentation.
    """
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": quantization, "device_map": {"": torch.cuda.current_device()}}
