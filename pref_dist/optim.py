"""AdamW's parameter groups and the learning rate as a function of the step."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pref_dist.config.train_section import Schedule
from pref_dist.errors import ConfigError
from pref_dist.models.layers import layer_numbers, list_layers
from pref_dist.models.row_embedding import list_row_tables

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
PLATEAU_MIN_GAIN = 1e-4  # nats
MAGNITUDE = ".lora_magnitude_vector."  # peft's name for the norms of DoRA


@dataclass(frozen=True)
class OptimizerSettings:
    """Peak learning rates and decays; head_learning_rate None means learning_rate, layer_decay 1 one rate for all."""

    learning_rate: float
    head_learning_rate: float | None
    weight_decay: float
    layer_decay: float = 1.0


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of all that training changes, in the model's order: what a checkpoint keeps."""
    by_rows = {id(table.weight) for table in list_row_tables(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or id(parameter) in by_rows:
            yield name, parameter


def build_parameter_groups(
    model: nn.Module, head_names: Iterable[str], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Return torch parameter groups {params, names, lr (peak), weight_decay} for every trained parameter.

    Biases and norms are never decayed; `head_names` are the parameters that train with the head's rate.
    Raises ConfigError if layers are to have different rates and the model has none.
    """
    rates = find_peak_rates(model, set(head_names), settings)
    undecayed = names_without_decay(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained_parameters(model):
        rate = rates[name]
        decay = 0.0 if name in undecayed else settings.weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "names": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def find_peak_rates(model: nn.Module, heads: set[str], settings: OptimizerSettings) -> dict[str, float]:
    """Return the peak rate of every parameter.

    Layer k of n, from the bottom, trains with layer_decay^(n + 1 - k) of the rate, the embeddings as layer 0, and
    whatever stands above the layers with all of it. Source: discriminative rates of Howard and Ruder 2018 (ULMFiT),
    in the form of Bao et al. 2021 (BEiT). Raises ConfigError if there are no layers.
    """
    head_rate = settings.head_learning_rate or settings.learning_rate
    rates = {name: head_rate if name in heads else settings.learning_rate for name, _ in model.named_parameters()}
    if settings.layer_decay == 1.0:
        return rates
    layers = [name for name in list_layers(model) if not any(head.startswith(f"{name}.") for head in heads)]
    if not layers:
        raise ConfigError(
            f"train.layer_decay={settings.layer_decay}, but {type(model).__name__} has no list of layers whose rates "
            "could differ. Set train.layer_decay=1.0, or use another model.name."
        )
    for name, number in layer_numbers(model, layers).items():
        if name not in heads:
            rates[name] *= settings.layer_decay ** (len(layers) + 1 - number)
    return rates


def names_without_decay(model: nn.Module) -> set[str]:
    """Return the names of all biases, of all that a normalisation layer owns, and of the norms that DoRA trains."""
    names = {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias" or MAGNITUDE in name}
    for prefix, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            names.update(f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False))
    return names


def create_moments(optimizer: torch.optim.AdamW) -> None:
    """Give a fused AdamW now the state that it would make in its first step, so that memory does not rise there."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                # A fused AdamW keeps its counters beside the parameters.
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float, schedule: Schedule) -> float:
    """Return the share of the peak rate at step `step` (from 0) of `num_steps`.

    It rises over the first `warmup_fraction` of the steps, reaching 1 at the end of them, then (linear, cosine) falls
    to 0 one step after the last, or (constant, plateau) stays. The first step is never lost to a rate of 0. What
    evaluations make of the rate comes on top: see Plateau.
    """
    warmup_steps = round(warmup_fraction * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule in ("constant", "plateau"):
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Plateau:
    """Lowers the rate when evaluations no longer get better.

    As ReduceLROnPlateau(monitor="val_loss", patience, factor) of Keras 3 does with the rest of its defaults: an
    evaluation is better if its log loss is more than 1e-4 under that of the last better one; after `patience` others
    in a row the rate is multiplied by `factor`, and the counting begins again. Evaluations in the warm-up count.
    best: log loss of the last better one, in nats. num_waited: evaluations since. scale: of the schedule's rate, now.
    """

    best: float | None = None
    num_waited: int = 0
    scale: float = 1.0

    def after(self, log_loss: float, patience: int, factor: float) -> "Plateau":
        """Return what is to be known after one more evaluation."""
        if self.best is None or log_loss < self.best - PLATEAU_MIN_GAIN:
            return Plateau(log_loss, 0, self.scale)
        if self.num_waited + 1 >= patience:
            return Plateau(self.best, 0, self.scale * factor)
        return Plateau(self.best, self.num_waited + 1, self.scale)
