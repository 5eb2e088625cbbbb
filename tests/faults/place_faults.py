"""Faults of place: other ranks, other back-ends, a port that is taken, a hub that cannot be reached."""

import signal
import socket
import time

from tests.faults.injection import Injection, check_refused, check_struck_down, take_snapshot
from tests.faults.scene import Run
from tests.faults.starts import state_of
from tests.faults.verdicts import MissedError, NotSurvivedError

PARALLEL_ERROR, MODEL_ERROR = 4, 8
WORLD_SIZES = (2, 1, 2, 3)
BACKENDS = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")


def inject_world_size(injection: Injection) -> None:
    """2 -> 1 -> 2 -> 3 ranks, each start but the last one stopped or killed in mid-run."""
    family = injection.variant(("ddp", "zero2", "fsdp2", "zero3", "zero1"))
    run = injection.write_run()
    injection.say(family)
    for place, world_size in enumerate(WORLD_SIZES[:-1]):
        interrupt(injection, run, backend_on(family, world_size), world_size, step=4 * place + 3)
    injection.finish(run, backend_on(family, WORLD_SIZES[-1]), WORLD_SIZES[-1])
    injection.check_equals(run, "ddp", 2, is_exact=False)


def backend_on(family: str, world_size: int) -> str:
    return "single" if world_size == 1 and family in ("ddp", "fsdp2") else family


def interrupt(injection: Injection, run: Run, backend: str, world_size: int, step: int) -> None:
    """Stop the run by a signal, or kill it, in `step` or the one after, which lies behind the last checkpoint."""
    rank, steps = injection.random.randrange(world_size), (step + injection.random.randrange(2),)
    if injection.random.random() < 0.5:
        fault = injection.fault("kill", "update", rank=rank, steps=steps)
        check_struck_down(injection.start(run, backend, world_size, fault), run, rank, [-signal.SIGKILL])
        return
    fault = injection.fault("signal", "forward", value="SIGTERM", rank=rank, steps=steps)
    ending = injection.start(run, backend, world_size, fault)
    if not ending.has_succeeded:
        raise NotSurvivedError(f"exit codes {ending.exit_codes} after SIGTERM\n{ending.tail()}")
    if state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")


def inject_back_end(injection: Injection) -> None:
    """Another back-end at each of two starts; every one comes first as often as the others."""
    first = injection.variant(BACKENDS)
    second = injection.random.choice([backend for backend in BACKENDS if backend != first])
    run = injection.write_run()
    injection.say(f"{first}, then {second}")
    interrupt(injection, run, first, 1 if first == "single" else 2, injection.draw_step(2, 13))
    injection.finish(run, second, 1 if second == "single" else 2)
    injection.check_equals(run, "ddp", 2, is_exact=False)


REFUSAL_SECONDS = 60
PORT_TIMEOUT_SECONDS = 15


def inject_unavailable(injection: Injection) -> None:
    """No hub, then no port: two refusals in time that leave nothing behind; then the run is made as if never asked."""
    run = injection.write_run()
    ask_hub(injection, run)
    take_port(injection, run)
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def ask_hub(injection: Injection, run: Run) -> None:
    """Raises NotSurvivedError unless a model that only the hub has is refused in seconds."""
    offline = injection.variant(("0", "1"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        injection.say(f"hub at {endpoint}, HF_HUB_OFFLINE={offline}")
        env = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HOME": str(injection.folder / "hub")}
        started = time.monotonic()
        ending = injection.start(run, "ddp", 2, None, "--set", "model.name=nobody/no-such-model", env=env)
    check_refused(ending, [MODEL_ERROR], "model.name=nobody/no-such-model", "Point model.name at a folder")
    check_untouched(run, time.monotonic() - started)


def take_port(injection: Injection, run: Run) -> None:
    """Raises NotSurvivedError unless ranks whose port another program holds end in time, and say so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        injection.say(f"port {port} taken")
        arguments = ("--set", f"parallel.timeout_seconds={PORT_TIMEOUT_SECONDS}")
        started = time.monotonic()
        ending = injection.start(run, "ddp", 2, None, *arguments, env={"MASTER_PORT": port})
    check_refused(ending, [PARALLEL_ERROR], f"127.0.0.1:{port}", "in use", "MASTER_PORT")
    check_untouched(run, time.monotonic() - started)


def check_untouched(run: Run, seconds: float) -> None:
    if seconds > REFUSAL_SECONDS:
        raise NotSurvivedError(f"refused after {seconds:.0f} s")
    left = take_snapshot(run.dir, (".lock", "failures"))
    if left:
        raise NotSurvivedError(f"the refusal has left {sorted(left)}")
