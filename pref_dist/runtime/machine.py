"""What a process runs on: its device, Python, and the libraries that decide its numbers."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy")


def list_versions() -> dict[str, str]:
    """Return the system of this process, its Python, and the libraries that are installed, with their versions."""
    versions = {name: find_version(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    return machine | {name: found for name, found in versions.items() if found}


def find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def name_device(device: "torch.device") -> str:
    """Return what computes: GPUs of two models round the last bit otherwise."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
