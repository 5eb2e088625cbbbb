"""How much there is of a model: what is trained, what is frozen, and what lies where; of a built one, or of its files.

The files of safetensors begin with the shapes of all that is in them, so that neither torch nor the weights are read.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

HEADER_BYTES = 8
VALUE_BYTES = {"fp32": 4, "fp64": 8}
NUM_TENSORS = 3  # a checkpoint holds each trained parameter's value and two moments
# With the two factors that nf4 keeps of each block of weights, themselves in 8 bits (Dettmers et al. 2023).
FROZEN_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.52}
IN_A_LAYER = re.compile(r"^(.*?\.\d+)\.")
EMBEDDINGS = re.compile(r"embed|wte|wpe")
TOKENS = re.compile(r"(?!.*(position|type|rel_|wpe)).*(embed|wte)")  # among them, the table of tokens
POOLER = re.compile(r"(^|\.)pooler\.")


@dataclass(frozen=True)
class ModelSizes:
    """num_trained: parameters that have moments; num_by_rows: those of them without a gradient as large as they are.

    value_bytes: of a trained parameter. frozen_bytes: of all that is not trained. num_outside: parameters, frozen ones
    too, that stand in no layer; num_in_layer: in the largest layer.
    """

    num_trained: int
    num_by_rows: int
    value_bytes: int
    frozen_bytes: int
    num_outside: int
    num_in_layer: int

    @property
    def trained_bytes(self) -> int:
        return self.value_bytes * self.num_trained

    @property
    def checkpoint_bytes(self) -> int:
        return NUM_TENSORS * self.trained_bytes


def measure_module(module: "nn.Module") -> ModelSizes:
    """Return the sizes of a built model, before a back-end has shared it out."""
    from pref_dist.models.layers import list_layers
    from pref_dist.models.row_embedding import list_row_tables
    from pref_dist.optim import trained_parameters

    trained = [parameter for _, parameter in trained_parameters(module)]
    are_trained = {id(parameter) for parameter in trained}
    frozen = [parameter for parameter in module.parameters() if id(parameter) not in are_trained]
    in_layers = [sum(value.numel() for value in layer.parameters()) for layer in list_layers(module).values()]
    return ModelSizes(
        num_trained=sum(parameter.numel() for parameter in trained),
        num_by_rows=sum(table.weight.numel() for table in list_row_tables(module)),
        value_bytes=max((parameter.element_size() for parameter in trained), default=4),
        frozen_bytes=sum(parameter.numel() * parameter.element_size() for parameter in frozen),
        num_outside=sum(parameter.numel() for parameter in module.parameters()) - sum(in_layers),
        num_in_layer=max(in_layers, default=0),
    )


def measure_files(folder: Path, settings: ModelSection) -> ModelSizes | None:
    """Return about what `measure_module` will say of the model that is built on a folder's weights; None: it has none.

    Not known is what its files do not hold, such as a new head. Raises ModelError if one is no safetensors file.
    """
    shapes = dict(read_shapes(folder))
    if not shapes:
        return None
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    in_layers: dict[str, int] = defaultdict(int)
    for name, count in counts.items():
        if found := IN_A_LAYER.match(name):
            in_layers[found[1]] += count
    total, value_bytes = sum(counts.values()), VALUE_BYTES[settings.weight_dtype]
    by_rows, frozen, more, bytes_each = 0, 0, 0, float(value_bytes)
    if settings.lora is not None:
        more = sum(count_adapter(name, shape, settings) for name, shape in shapes.items())
        frozen = total - sum(count for name, count in counts.items() if POOLER.search(name))
        bytes_each = FROZEN_BYTES[settings.lora.base] if settings.lora.base != "fp32" else bytes_each
    elif settings.embeddings != "trained":
        table = max((count for name, count in counts.items() if TOKENS.match(name)), default=0)
        by_rows, frozen = (table, 0) if settings.embeddings == "sparse" else (0, table)
    return ModelSizes(
        num_trained=total - frozen + more,
        num_by_rows=by_rows,
        value_bytes=value_bytes,
        frozen_bytes=round(frozen * bytes_each),
        num_outside=total - sum(in_layers.values()),
        num_in_layer=max(in_layers.values(), default=0),
    )


def count_adapter(name: str, shape: tuple[int, ...], settings: ModelSection) -> int:
    """Return the parameters of the adapter beside a weight (outputs, inputs); 0 if it gets none."""
    lora = settings.lora
    assert lora is not None
    module = name.removesuffix(".weight")
    if len(shape) != 2 or module == name or EMBEDDINGS.search(name):
        return 0
    if lora.modules == "all-linear":
        is_adapted = IN_A_LAYER.match(name) is not None
    else:
        is_adapted = any(module == one or module.endswith(f".{one}") for one in lora.modules)
    return is_adapted * (lora.rank * sum(shape) + lora.dora * shape[0])


def count_stored(folder: Path) -> int:
    """Return the parameters in a folder's safetensors files. Raises ModelError."""
    return sum(math.prod(shape) for _, shape in read_shapes(folder))


def read_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (name, shape) of every tensor of a folder's weights. Raises ModelError."""
    files: Iterable[Path] = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    for file in files:
        yield from read_header(file)


def read_header(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """As https://huggingface.co/docs/safetensors describes the format: 8 bytes of length, then JSON."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(HEADER_BYTES), "little")))
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path} is no safetensors file: {error}") from error
    return [(name, tuple(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__"]
