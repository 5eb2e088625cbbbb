"""What running out of memory looks like, and giving back what a failed attempt held."""

import gc

import torch

# RuntimeErrors of torch that have no type of their own; CUDA's is torch.OutOfMemoryError.
MESSAGES = ("can't allocate memory", "not enough memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def first_line(error: BaseException) -> str:
    """Return what an error says, short enough for a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def release() -> None:
    """Give back what nothing refers to any more, graphs of a failed forward included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
