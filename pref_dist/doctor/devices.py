"""torch, and the GPUs as torch really sees and uses them. Runs in a process of its own: drivers can hang."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pref_dist.doctor.finding import NOT_HERE, Finding, Question
from pref_dist.errors import ParallelError
from pref_dist.files import render_bytes

DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
CPU_INFO = Path("/proc/cpuinfo")
NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}
SLOW_IMPORT_SECONDS = 30.0
LEAST_FREE_SHARE = 0.5


def check_torch(question: Question) -> Iterator[Finding]:
    """Import torch, as every rank will."""
    start = time.perf_counter()
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        yield Finding("torch import", "error", f"fails: {reason}", "Install it anew: bash launch/install.sh.")
        return
    seconds = time.perf_counter() - start
    seen = f"{torch.__version__} in {seconds:.1f} s, from {Path(torch.__file__).parent}"
    if seconds > SLOW_IMPORT_SECONDS:
        yield Finding("torch import", "warning", seen, "Put the environment on a local disk: every rank reads it.")
    else:
        yield Finding("torch import", "ok", seen)


def check_cuda(question: Question) -> Iterator[Finding]:
    """Compare what the driver has with what torch can use; a training would silently take the CPU."""
    import torch

    listed, driver = count_driver_gpus(), read_driver_version()
    if torch.version.cuda is None and torch.version.hip is None:
        seen = f"{NOT_HERE}: torch is built for the CPU"
        if listed:
            yield Finding(
                "CUDA", "error", f"{seen}, but the driver ({driver}) has {listed} GPU(s)",
                "Install a CUDA build of torch (https://pytorch.org/get-started), else training takes the CPU.",
            )  # fmt: skip
        else:
            yield Finding("CUDA", "ok", seen)
        return
    yield judge_cuda(listed, driver)


def judge_cuda(listed: int, driver: str) -> Finding:
    """Say whether a CUDA build of torch can use the GPUs that the driver has."""
    import torch

    build = f"torch is built for CUDA {torch.version.cuda or torch.version.hip}, driver {driver or NOT_HERE}"
    if torch.cuda.is_available():
        return Finding("CUDA", "ok", f"{build}, {torch.cuda.device_count()} GPU(s) to use")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed and hidden is not None:
        return Finding(
            "CUDA", "warning", f"{build}; CUDA_VISIBLE_DEVICES={hidden!r} hides all {listed} GPU(s)",
            "unset CUDA_VISIBLE_DEVICES, or ask Slurm for GPUs (--gpus-per-node).",
        )  # fmt: skip
    if listed:
        remedy = "Update the driver, or install a torch for an older CUDA; in a container: --gpus all."
        return Finding("CUDA", "error", f"{build}; {listed} GPU(s), but none works: {find_cuda_error()}", remedy)
    return Finding("CUDA", "ok", f"{build}; {NOT_HERE}: no GPU, so the CPU computes")


def find_cuda_error() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has no types for it
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "torch does not say why"


def check_gpus(question: Question) -> Iterator[Finding]:
    """Look at each GPU: name, memory, capability, bf16; and let it compute."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPUs", "ok", NOT_HERE)
        yield Finding("NCCL", "ok", NOT_HERE)
        yield Finding("Triton", "ok", NOT_HERE)
        return
    for index in range(torch.cuda.device_count()):
        try:
            yield judge_gpu(index)
        except RuntimeError as error:  # torch's own kinds are RuntimeErrors
            reason = str(error).strip().splitlines()[0]
            yield Finding(
                f"GPU {index}", "error", f"does not compute: {reason}",
                f"See nvidia-smi -i {index} (processes, ECC errors, exclusive mode), or leave it out by "
                "CUDA_VISIBLE_DEVICES.",
            )  # fmt: skip
    yield check_nccl()
    yield check_triton()


def judge_gpu(index: int) -> Finding:
    """Say what a GPU is and whether it is free. Raises RuntimeError if it does not compute."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        free, total = torch.cuda.mem_get_info()
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        probe = torch.ones(256, 256, device="cuda")
        if float((probe @ probe).sum()) != 256.0**3:
            raise RuntimeError("a product of matrices of ones is wrong")
    capability = f"{properties.major}.{properties.minor}"
    seen = (
        f"{properties.name}, {render_bytes(free)} of {render_bytes(total)} free, capability {capability}, "
        f"{'bf16' if has_bf16 else 'no bf16, so precision auto is fp16'}"
    )
    if free < LEAST_FREE_SHARE * total:
        remedy = f"Another process holds its memory: nvidia-smi -i {index} names it."
        return Finding(f"GPU {index}", "warning", seen, remedy)
    return Finding(f"GPU {index}", "ok", seen)


def check_nccl() -> Finding:
    import torch

    try:
        version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # torch has no types for it
    except (RuntimeError, AttributeError) as error:
        return Finding("NCCL", "error", f"torch has none: {error}", "Install a CUDA build of torch; ranks need it.")
    settings = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NCCL_"))
    return Finding("NCCL", "ok", f"{version}; {settings or 'no NCCL_ settings'}")


def check_triton() -> Finding:
    """Say whether DeBERTa's attention kernels can be compiled and run on the first GPU."""
    import torch

    from pref_dist.models.deberta.gpu import has_kernels

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        works = has_kernels(torch.device("cuda", 0), torch.float32)
    if works:
        return Finding("Triton", "ok", "compiles and runs the kernels of DeBERTa's attention")
    if not heard:
        return Finding("Triton", "ok", f"{NOT_HERE}, or the GPU is older than it: torch's operations attend in DeBERTa")
    return Finding("Triton", "warning", str(heard[-1].message), "Install gcc, or set CC and TRITON_CACHE_DIR.")


def check_precision_asked(question: Question) -> Iterator[Finding]:
    """Prove that the device computes in the precision of the run config."""
    import torch

    from pref_dist.runtime.precision import check_precision, resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = question.config.train.precision if question.config is not None else "auto"
    precision = resolve_precision(asked, device)
    try:
        check_precision(precision, device)
    except ParallelError as error:
        yield Finding("precision", "error", str(error), "Set train.precision=auto, or another of them.")
        return
    seen = f"train.precision={asked} is {precision} on {device.type}, and computes so"
    if device.type == "cpu" and precision == "fp32" and NATIVE_BF16 & read_cpu_flags():
        seen += "; this CPU multiplies bf16 itself, which train.precision=bf16 would use"
    yield Finding("precision", "ok", seen)


def read_cpu_flags() -> set[str]:
    """Return what the first core says it can do; empty where the system does not say."""
    with suppress(OSError):
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        return set(next((line for line in lines if line.startswith("flags")), "").split())
    return set()


def count_driver_gpus() -> int:
    """Return the GPUs that the NVIDIA driver has, whatever torch makes of them."""
    with suppress(OSError):
        return sum(1 for _ in DRIVER_GPUS.iterdir())
    return 0


def read_driver_version() -> str:
    with suppress(OSError):
        words = DRIVER_VERSION.read_text(encoding="utf-8", errors="replace").splitlines()[0].split()
        return next((word for word in words if word[0].isdigit() and "." in word), "")
    return ""
