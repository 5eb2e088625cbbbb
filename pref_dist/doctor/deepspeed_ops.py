"""DeepSpeed and its operators: which would be loaded, which would be compiled, which would hang or crash.

Needs torch in the process, since an operator is linked against it.
"""

import ctypes
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from pref_dist.doctor.disk_probe import find_existing
from pref_dist.doctor.finding import NOT_HERE, Finding, Question, State
from pref_dist.runtime.topology import Topology

NINJA_SECONDS = 5.0
BUILD_SECONDS = "one to two minutes, in which all ranks wait"


def check_op_cache(question: Question) -> Iterator[Finding]:
    """Look at each operator in the folder of compiled ones, as a training on this machine would find it."""
    if find_spec("deepspeed") is None:
        yield Finding("DeepSpeed ops", "ok", f"{NOT_HERE}: DeepSpeed is not installed")
        return
    set_as_zero_would()
    from pref_dist.runtime.op_locks import find_op_root

    root = find_op_root()
    yield judge_root(root, question)
    for name in list_ops_of(question.asked_backend):
        yield judge_op(root / name, name, question.asked_backend)


def check_deepspeed(question: Question) -> Iterator[Finding]:
    """Import DeepSpeed, which fails for reasons of its own, such as a GPU without CUDA's compiler."""
    if find_spec("deepspeed") is None:
        return  # the packages say so
    set_as_zero_would()
    start = time.perf_counter()
    try:
        with redirect_stdout(io.StringIO()):
            import pref_dist.runtime.zero  # noqa: F401  # what a ZeRO training imports
    except Exception as error:  # of any kind: it looks at compilers, drivers and files
        yield Finding(
            "DeepSpeed import", severity(question.asked_backend), f"fails: {type(error).__name__}: {error}",
            "Install it for this torch (bash launch/install.sh); CUDA_HOME must name a CUDA toolkit where there are "
            "GPUs. Or use ddp or fsdp2.",
        )  # fmt: skip
        return
    seen = f"{metadata.version('deepspeed')} in {time.perf_counter() - start:.1f} s"
    yield Finding("DeepSpeed import", "ok", seen)


def set_as_zero_would() -> None:
    """Set the environment as a ZeRO training on this machine does, so that the same folder is looked at."""
    from pref_dist.runtime.parallel import choose_device, set_environment

    topology = Topology("zero2", world_size=1, rank=0, local_rank=0)
    set_environment(topology, choose_device(topology))


def list_ops_of(backend: str) -> list[str]:
    """Return the operators that a back-end needs here; of `auto`, those that any might."""
    from pref_dist.runtime.op_locks import list_needed_ops  # it imports torch

    return list_needed_ops(is_offloaded=backend == "auto" or backend.endswith("offload"))


def severity(backend: str) -> State:
    """Return what a broken DeepSpeed means: nothing grave where another back-end is asked for."""
    return "error" if backend == "auto" or backend.startswith("zero") else "warning"


def judge_root(root: Path, question: Question) -> Finding:
    """Say whether operators can be compiled: a folder to write, a compiler, ninja."""
    place = find_existing(root)
    named = "TORCH_EXTENSIONS_DIR" if "TORCH_EXTENSIONS_DIR" in os.environ else "torch's own choice"
    missing = [name for name in ("c++", "ninja") if not find_program(name)]
    built = sorted(path.parent.name for path in root.glob("*/*.so")) if root.is_dir() else []
    seen = f"{root} ({named}) holds {', '.join(built) or 'none yet'}"
    needed = set(list_ops_of(question.asked_backend)) - set(built)
    bad: State = "error" if question.asked_backend.startswith("zero") and needed else "warning"
    if not os.access(place, os.W_OK):
        remedy = "export TORCH_EXTENSIONS_DIR with a folder on a local disk that can be written."
        return Finding("DeepSpeed ops", bad, f"{seen}; it cannot be written", remedy)
    if missing:
        remedy = "apt-get install g++, pip install ninja (it must be on PATH); or build them elsewhere, same folder."
        return Finding("DeepSpeed ops", bad, f"{seen}; {' and '.join(missing)} missing, so none can be built", remedy)
    return Finding("DeepSpeed ops", "ok", f"{seen}; c++ and ninja are here to build others")


def find_program(name: str) -> str | None:
    """Return a program on PATH, or the one beside this Python, which launch/*.sh put on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(name, path=path)


def judge_op(folder: Path, name: str, backend: str) -> Finding:
    """Say of an operator whether a training would load it, compile it, crash by it, or wait in vain."""
    label, library, lock = f"op {name}", folder / f"{name}.so", folder / "lock"
    again = f"rm -r {folder}; it is built anew at the next start, or by bash launch/install.sh."
    if lock.exists():
        return judge_lock(label, lock, backend)
    if not library.exists():
        return Finding(label, "ok", f"not built yet; the first start does that ({BUILD_SECONDS})")
    foreign = find_foreign_paths(folder)
    if foreign:
        return Finding(
            label, "warning", f"{library} was built for another environment ({foreign}): it is compiled anew at the "
            f"start ({BUILD_SECONDS}), and again when the other one starts",
            "export TORCH_EXTENSIONS_DIR with a folder of this environment's own.",
        )  # fmt: skip
    damage = find_damage(library)
    is_rebuilt = needs_build(folder)
    if damage and not is_rebuilt:
        seen = f"{library} is damaged or for another torch, and would be loaded as it is: {damage}"
        return Finding(label, severity(backend), seen, again)
    if damage or is_rebuilt:
        seen = f"{library} is out of date{': ' if damage else ''}{damage}; it is compiled anew ({BUILD_SECONDS})"
        return Finding(label, "warning", seen, "bash launch/install.sh builds it before the ranks wait for it.")
    return Finding(label, "ok", f"{library} loads")


def judge_lock(label: str, lock: Path, backend: str) -> Finding:
    """Say whether an operator is being built, or would be waited for in vain: torch waits while the file is there."""
    from pref_dist.runtime.op_locks import find_holder

    minutes = (time.time() - lock.stat().st_mtime) / 60
    builder = find_holder(lock)
    if builder is not None:
        seen = f"being built by pid {builder} for {minutes:.0f} minutes; whoever needs it waits"
        return Finding(label, "warning", seen, f"Wait, or end that process and rm {lock}.")
    seen = f"{lock} was left {minutes:.0f} minutes ago by a builder that no longer runs here: starts wait, then refuse"
    return Finding(label, severity(backend), seen, f"If no other machine builds it now: rm {lock}.")


def find_damage(library: Path) -> str:
    """Return why an operator does not load with this torch; "" if it does. A damaged one may end the process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        load_and_leave(library, writer)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return f"loading it ends the process by {signal.Signals(-code).name}"
    return text.removeprefix(f"{library}: ")


def load_and_leave(library: Path, writer: int) -> NoReturn:
    """Load it into this process, which has torch for its symbols, and say what went wrong."""
    try:
        ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(0)


def find_foreign_paths(folder: Path) -> str:
    """Return the torch or Python that an operator was compiled with, if it is not this one; "" else, or if not known.

    Paths count as they are written: the same folder under another name makes ninja compile, too.
    """
    import torch

    try:
        text = (folder / "build.ninja").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    own = str(Path(torch.__file__).parent)
    paths = {path.removesuffix("/include") for path in re.findall(r"-isystem (\S*/torch/include)(?=\s)", text)}
    pythons = set(re.findall(r"/include/(python3\.\d+)", text)) - {f"python3.{sys.version_info.minor}"}
    return next(iter([*sorted(paths - {own}), *sorted(pythons)]), "")


def needs_build(folder: Path) -> bool:
    """Whether ninja would compile it anew as it stands. torch asks ninja at every start."""
    ninja = find_program("ninja")
    if not (folder / "build.ninja").exists():
        return True
    if ninja is None:
        return False
    # In a copy of what it keeps in mind: another version of ninja starts that anew, even when asked to do nothing.
    with suppress(OSError, subprocess.SubprocessError), tempfile.TemporaryDirectory() as copy:
        for name in ("build.ninja", ".ninja_log", ".ninja_deps"):
            if (folder / name).exists():
                shutil.copy2(folder / name, copy)
        for path in folder.glob("*.*o"):
            (Path(copy) / path.name).symlink_to(path)
        command = [ninja, "-n", "-C", copy]
        result = subprocess.run(command, capture_output=True, text=True, timeout=NINJA_SECONDS)
        return result.returncode == 0 and "no work to do" not in result.stdout
    return False  # not known
