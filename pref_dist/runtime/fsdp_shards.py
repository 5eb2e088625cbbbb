"""Which parts of a model FSDP2 shares apart from each other, and the sharing itself."""

from collections import Counter
from collections.abc import Iterator

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from pref_dist.models.layers import list_layers


def shard_module(module: nn.Module, device: torch.device) -> tuple[FSDPModule, DeviceMesh]:
    """Leave each rank its slice of every parameter, in place; gather layer by layer, all else with the root.

    Whole weights come to the device one layer at a time. The root's stay there from forward to backward.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in find_layers(module):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # A step's loss is the sum of the ranks' shares, so its gradient is the sum, not the mean, of theirs.
            part.set_force_sum_reduction_for_comms(True)
            part.set_gradient_divide_factor(1.0)
    assert isinstance(module, FSDPModule)
    return module, mesh


def find_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that can be shared apart from the rest of the model.

    Left to the root are layers without parameters, and layers that share some with another part (tied
    weights), which would come apart.
    """
    owners = Counter(_owned(module))
    layers = {layer: Counter(_owned(layer)) for layer in list_layers(module).values()}
    return [layer for layer, own in layers.items() if own and all(own[key] == owners[key] for key in own)]


def copy_from_rank_0(module: nn.Module, device: torch.device) -> None:
    """Give every rank the parameters of rank 0, as DDP does: the slices must be those of one model."""
    with torch.no_grad():
        for parameter in module.parameters():
            value = parameter.detach().to(device, copy=True).contiguous()
            torch.distributed.broadcast(value, src=0)
            parameter.copy_(value)


def _owned(part: nn.Module) -> Iterator[int]:
    """Yield the id of every parameter, once for each module that holds it."""
    for member in part.modules():
        yield from (id(parameter) for parameter in member._parameters.values() if parameter is not None)
