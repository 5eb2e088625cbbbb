"""What a precision means on a device, and the proof that it really is that."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from pref_dist.config.train_section import Precision
from pref_dist.errors import ParallelError

FORWARD_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def forbid_tf32() -> None:
    """Let fp32 be fp32 on a GPU, whatever torch's defaults (convolutions) or a container's environment
    (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1) say.

    TF32 keeps 10 bits of a factor's mantissa, which would break the promise that a run is the same on any machine, and
    its speed is no reason: bf16 and fp16 are faster and keep fp32 weights. So there is no setting for it.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ParallelError where the device would silently compute in another precision."""
    if precision == "fp32":
        return
    if device.type == "cpu" and precision == "fp16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise ParallelError(
            "train.precision=fp16, but this CPU has no fp16 arithmetic (avx512_fp16): it would silently be "
            "something else. Use fp32 or bf16 here."
        )
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ParallelError("train.precision=bf16, but this GPU has no bf16. Use fp16.")
    with torch.no_grad(), autocast_to(precision, device):
        found = torch.nn.functional.linear(torch.ones(8, 8, device=device), torch.ones(8, 8, device=device)).dtype
    if found != FORWARD_DTYPES[precision]:
        raise ParallelError(f"train.precision={precision}, but a linear layer on {device} really gives {found}.")


def autocast_to(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The forward's autocast; nothing at all for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=FORWARD_DTYPES[precision])
