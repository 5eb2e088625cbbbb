"""Random numbers that belong to the plan, not to a process."""

import hashlib

import torch


def seed_dropout(seed: int, epoch: int, step: int, micro_batch: int) -> None:
    """Seed torch on all devices for one micro-batch, the same on whichever rank runs it."""
    torch.manual_seed(derive_seed("dropout", seed, epoch, step, micro_batch))


def derive_seed(purpose: str, *parts: int) -> int:
    """Return a 63-bit seed from a purpose and some numbers; other purposes give unrelated seeds."""
    digest = hashlib.sha256(f"{purpose}:{parts}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
