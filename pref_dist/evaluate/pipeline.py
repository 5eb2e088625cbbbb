"""Work of the host beside the model's: the next batch is built, and the last result comes in, while a batch runs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from pref_dist.evaluate.answers import Logits

Item = TypeVar("Item")
Built = TypeVar("Built")


def build_ahead(build: Callable[[Item], Built], items: Iterable[Item], num_ahead: int = 1) -> Iterator[Built]:
    """Yield `build(item)` of each item in turn, made in a thread while the caller works on the one before.

    An error of `build` is raised where its item's turn is. At most `num_ahead` results wait.
    """
    waiting: deque[Future[Built]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        for item in items:
            waiting.append(thread.submit(build, item))
            if len(waiting) > num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in memory from which a GPU fetches it while the host goes on."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


class HostCopy:
    """A tensor on its way to the host. The copy is queued behind what computes it, and before what is asked next."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._arrived = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> Logits:
        """Wait until it is there, and return it in memory of its own."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: Logits = self._host.numpy().copy()
        return values
