"""Work of the host beside the model's: the next batch is built, and the last result comes in, while a batch runs."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")
Built = TypeVar("Built")

_END: Any = object()


def build_ahead(
    build: Callable[[Item], Built], items: Iterable[Item], num_ahead: int = 1
) -> Generator[Built, None, None]:
    """Yield `build(item)` of each item in turn, made in a thread while the caller works on the one before.

    The thread takes the items, too. An error of either is raised where its item's turn is. At most `num_ahead`
    results wait. `close` ends the thread, after the item that it is at.
    """
    source = iter(items)

    def build_next() -> Built:
        item = next(source, _END)
        return cast(Built, _END) if item is _END else build(item)

    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        waiting: deque[Future[Built]] = deque(thread.submit(build_next) for _ in range(num_ahead))
        while True:
            waiting.append(thread.submit(build_next))
            built = waiting.popleft().result()
            if built is _END:
                return
            yield built
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in memory from which a GPU fetches it while the host goes on."""
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # a new thread would stand on GPU 0
        return tensor.pin_memory()


def gather_numbers(values: Sequence[float | Tensor], device: torch.device) -> Tensor:
    """Return the values, numbers or () tensors, as (n,) float64, on `device` if one of them is; waits for none."""
    is_there = [isinstance(value, Tensor) and value.device.type != "cpu" for value in values]
    known = [0.0 if there else float(value) for value, there in zip(values, is_there, strict=True)]
    numbers = torch.tensor(known, dtype=torch.float64)
    if any(is_there):
        numbers = pin(numbers, device).to(device, non_blocking=True)
    for place in (place for place, there in enumerate(is_there) if there):
        numbers[place] = values[place]
    return numbers


class HostCopy:
    """A tensor on its way to the host. The copy is queued behind what computes it, and before what is asked next."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._arrived = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it
            self._arrived.record()

    def read(self) -> NDArray[np.float32 | np.float64]:
        """Wait until it is there, and return it in memory of its own."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: NDArray[np.float32 | np.float64] = self._host.numpy().copy()
        return values
