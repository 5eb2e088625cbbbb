"""Reads single parameters out of a checkpoint's shards."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from pref_dist.errors import CheckpointError
from pref_dist.runtime.engine import ParameterState


class ShardReader:
    """Random access to the parameters of a checkpoint; the files stay memory-mapped while it is open."""

    def __init__(self, folder: Path, manifest: dict[str, Any], with_moments: bool) -> None:
        self._folder = folder
        self._places: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._files: list[Any] = []
        for name in sorted(manifest["files"]):
            if name.startswith("model-") or (with_moments and name.startswith("optimizer-")):
                self._open(name)

    def _open(self, name: str) -> None:
        file: Any = safe_open(self._folder / name, framework="pt")
        self._files.append(file)
        self._places |= dict.fromkeys(file.keys(), file)
        self._steps |= json.loads((file.metadata() or {}).get("steps", "{}"))

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._places.clear()
        self._files.clear()

    @property
    def names(self) -> list[str]:
        """Everything that is there: parameters, and moments where they were asked for."""
        return list(self._places)

    def read_any(self, key: str) -> Tensor:
        """Return a tensor by its name in the files. Raises CheckpointError if it is not there."""
        if key not in self._places:
            raise CheckpointError(f"{self._folder} holds no '{key}': it belongs to another model than model.name.")
        tensor: Tensor = self._places[key].get_tensor(key)
        return tensor

    def read_value(self, name: str, shape: tuple[int, ...]) -> Tensor:
        value = self.read_any(name)
        if tuple(value.shape) != shape:
            raise CheckpointError(f"{self._folder}: '{name}' has shape {tuple(value.shape)}, the model's has {shape}.")
        return value

    def read(self, name: str) -> ParameterState:
        return ParameterState(
            value=self.read_any(name),
            exp_avg=self.read_any(f"exp_avg/{name}"),
            exp_avg_sq=self.read_any(f"exp_avg_sq/{name}"),
            step=self._steps[name],
        )
