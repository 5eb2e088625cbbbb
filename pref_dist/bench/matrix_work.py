"""How much matrix work a model's linear layers are, and how fast this process multiplies matrices of their shapes."""

import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

# A length that no layer's width and no table of positions has, so that tokens can be told from them.
NUM_PROBED_TOKENS = 23
NUM_TIMINGS = 5
MAX_TIMED_TOKENS = 16384  # more rows than that do not make a multiplication faster, but need memory
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIMES_IN_TRAINING = 3  # the backward multiplies for the inputs' gradient and for the weights'

Shape = tuple[int, int]  # in, out


@dataclass(frozen=True)
class LinearWork:
    """How often the layers of a shape are applied to each token, and to each row alone (pooler, head)."""

    per_token: dict[Shape, int]
    per_row: dict[Shape, int]

    def flops(self, num_tokens: int, num_rows: int) -> float:
        """Return the floating-point operations of a forward: 2 x in x out for each token or row."""
        return float(num_tokens * count_flops(self.per_token) + num_rows * count_flops(self.per_row))


def count_flops(shapes: dict[Shape, int]) -> int:
    return sum(2 * wide * high * times for (wide, high), times in shapes.items())


def count_linear_work(config: Any) -> LinearWork:
    """Walk the classifier of a transformers config, without its weights, and count what its linear layers multiply.

    Work that does not grow with the rows (DeBERTa projects its position table) is left out, and so are embeddings
    and the products inside attention: nobody can be faster by doing more of them.
    """
    try:
        return probe(config, torch.device("meta"))
    except (RuntimeError, NotImplementedError):  # a family whose forward looks at values
        return probe(config, torch.device("cpu"))


def probe(config: Any, device: torch.device) -> LinearWork:
    from transformers import AutoModelForSequenceClassification

    per_token: Counter[Shape] = Counter()
    per_row: Counter[Shape] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        assert isinstance(module, nn.Linear)
        shape = module.in_features, module.out_features
        num_lines = inputs[0].numel() // module.in_features
        if num_lines == NUM_PROBED_TOKENS:
            per_token[shape] += 1
        elif num_lines == 1:
            per_row[shape] += 1

    with device, torch.no_grad():
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(note)
        model(input_ids=torch.ones(1, NUM_PROBED_TOKENS, dtype=torch.int64))
    return LinearWork(dict(per_token), dict(per_row))


def measure_matmul_rate(work: LinearWork, num_tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return FLOP/s of the model's token-wise layer shapes with `num_tokens` tokens each, weighted as they occur.

    Each shape alone, in this process: same threads, same type. Median of several.
    """
    num_tokens = max(1, min(num_tokens, MAX_TIMED_TOKENS))
    seconds = sum(
        times * time_linear(shape, num_tokens, dtype, device) for shape, times in sorted(work.per_token.items())
    )
    return num_tokens * count_flops(work.per_token) / seconds


def time_linear(shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    wide, high = shape
    inputs = torch.randn(num_tokens, wide, device=device).to(dtype)
    weight, bias = torch.randn(high, wide, device=device).to(dtype), torch.zeros(high, device=device, dtype=dtype)
    seconds = []
    with torch.no_grad():
        for _ in range(NUM_TIMINGS + 1):
            start = time.perf_counter()
            nn.functional.linear(inputs, weight, bias)
            synchronise(device)
            seconds.append(time.perf_counter() - start)
    return median(seconds[1:])  # the first one sets up


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
