"""A rank of a real run, with one fault of the machine or the model put in from outside.

    python -m tests.ranks.guard_ranks FAULT RANK FIRST_STEP LAST_STEP VERB ...

nan_loss, nan_gradient: the first row's loss, or its gradient, is NaN on that rank in these steps (from 1).
nan_gradient_frozen: the same while the input embeddings are not trained.
memory: on that rank there is no room for more than FIRST_STEP tokens, from step LAST_STEP on (0: from the start).
evaluation_memory: the same without gradients.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pref_dist.train.assemble as assemble_module
import pref_dist.train.step as step_module
from pref_dist.cli.program import main
from pref_dist.runtime.parallel import Parallel
from pref_dist.train import loop, skips
from pref_dist.train.assemble import Assembled
from pref_dist.train.feed import FedStep


class NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        poison = torch.zeros_like(gradient)
        poison[0] = float("nan")
        return gradient + poison


def poison_first(losses: Tensor) -> Tensor:
    factor = torch.ones_like(losses)
    factor[0] = float("nan")
    return losses * factor


def follow_steps(tell: Callable[[Assembled, int], None]) -> None:
    """Call `tell` with every step (from 1) before it is taken, in the loop as in a second look at it."""
    take_step = step_module.take_step

    def taking(run: Assembled, fed: FedStep) -> Any:
        tell(run, fed.planned.step + 1)
        return take_step(run, fed)

    loop.take_step = taking
    skips.take_step = taking


def poison(fault: str, rank: int, first_step: int, last_step: int) -> None:
    struck: list[bool] = []

    def tell(run: Assembled, step: int) -> None:
        struck[:] = [run.parallel.rank == rank and first_step <= step <= last_step]

    cross_entropy = step_module.cross_entropy
    change = poison_first if fault == "nan_loss" else NanGradient.apply
    if fault == "nan_gradient_frozen":
        freeze_embeddings()

    def poisoned(logits: Tensor, target: Tensor) -> Tensor:
        losses = cross_entropy(logits, target)
        # Once a step: in the first of its micro-batches.
        return change(losses) if struck and struck.pop() else losses

    step_module.cross_entropy = poisoned
    follow_steps(tell)


def freeze_embeddings() -> None:
    build_start = assemble_module.build_start

    def build(*arguments: Any) -> Any:
        built = build_start(*arguments)
        built.module.base_model.embeddings.requires_grad_(False)
        return built

    assemble_module.build_start = build


def bound_memory(rank: int, most_tokens: int, from_step: int, trains: bool) -> None:
    now = [0]

    def bound(build: Callable[..., Any]) -> Callable[..., Any]:
        def build_bounded(self: Parallel, *arguments: Any) -> Any:
            engine = build(self, *arguments)
            forward = engine.forward

            def run_bounded(inputs: Any, is_last: bool = True) -> Tensor:
                is_hit = torch.is_grad_enabled() == trains and inputs["input_ids"].numel() > most_tokens
                if is_hit and self.rank == rank and now[0] >= from_step:
                    torch.empty(1 << 60, dtype=torch.uint8)  # fails as any allocation does that finds no room
                logits: Tensor = forward(inputs, is_last)
                return logits

            engine.forward = run_bounded
            return engine

        return build_bounded

    for name in ("build_engine", "build_inference_engine"):
        setattr(Parallel, name, bound(getattr(Parallel, name)))
    follow_steps(lambda _, step: now.__setitem__(0, step))


if __name__ == "__main__":
    fault, rank, first, last = sys.argv[1], *map(int, sys.argv[2:5])
    sys.argv[1:5] = []
    if fault.startswith("nan"):
        poison(fault, rank, first, last)
    else:
        bound_memory(rank, first, last, trains=fault == "memory")
    main()
