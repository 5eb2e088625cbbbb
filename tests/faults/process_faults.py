"""Faults of processes: signals to a rank and to the launcher, kill -9, a rank that stands still."""

import signal
import time
from contextlib import suppress

import psutil

from tests.faults.fault import Fault
from tests.faults.injection import Injection, check_struck_down
from tests.faults.scene import LONG, Run
from tests.faults.starts import count_steps, launched, state_of
from tests.faults.verdicts import MissedError, NotSurvivedError
from tests.launch.launched import Launched

STOPPED = 75
PARALLEL_ERROR = 4
SIGNALS = ("SIGTERM", "SIGUSR1")
MOMENTS = ("tokenising", "step", "accumulation", "evaluation", "saving")
STEPS_OF_SAVING = (8, 16, 24)
STEPS_OF_EVALUATION = (5, 10, 15, 20)


def inject_signal(injection: Injection) -> None:
    """A signal to a rank, then one to the launcher, both at points of their own; then the run is finished."""
    run = injection.write_run(LONG, data={"cache_dir": str(injection.folder / "cache")})
    signal_rank(injection, run)
    if state_of(run.dir) != "stopped":
        raise NotSurvivedError(f"after the signal to a rank the run is {state_of(run.dir)}")
    signal_launcher(injection, run)
    with launched(injection.folder, "ddp", 2, ["train", str(run.yaml)]) as again:
        check_launcher(again, run, 0, "finished")
    injection.check_equals(run, "ddp", 2, LONG)


def signal_rank(injection: Injection, run: Run) -> None:
    """Raises NotSurvivedError unless every rank of the stopped run ends with 0, as torchrun needs it."""
    ending = injection.start(run, "ddp", 2, fault_of_signal(injection))
    if not ending.has_succeeded:
        raise NotSurvivedError(f"exit codes {ending.exit_codes} after a signal to a rank\n{ending.tail()}")
    if state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")


def fault_of_signal(injection: Injection) -> Fault:
    moment, name = injection.variant(MOMENTS), injection.random.choice(SIGNALS)
    rank, step = injection.random.randrange(2), injection.draw_step(1, 14)
    if moment == "tokenising":  # by whichever rank
        return injection.fault("signal", "tokenising", value=name, count=injection.random.randrange(2))
    if moment == "saving":
        count = injection.random.randrange(12 if rank == 0 else 3)
        return injection.fault("signal", "files", value=name, rank=rank, steps=(8,), count=count)
    if moment == "evaluation":
        return injection.fault("signal", "evaluation", value=name, rank=rank, steps=(step,))
    count = 0 if moment == "step" else 1
    return injection.fault("signal", "forward", value=name, rank=rank, steps=(step,), count=count)


def signal_launcher(injection: Injection, run: Run) -> None:
    """Wait for a moment of the run that goes on, signal its launcher, and check that it ends with 75."""
    name = injection.random.choice(SIGNALS)
    with launched(injection.folder, "ddp", 2, ["train", str(run.yaml)]) as launch:
        moment = await_moment(injection, launch, run)
        injection.say(f"{name} to the launcher: {moment}")
        time.sleep(injection.random.random() * 0.02)
        launch.process.send_signal(signal.Signals[name])
        check_launcher(launch, run, STOPPED, "stopped")


def await_moment(injection: Injection, launch: Launched, run: Run) -> str:
    """Return what the run was seen at."""
    done = count_steps(run.dir)
    moment = injection.random.choice(MOMENTS[1:])
    if moment == "saving":
        # Seen at its temporary folder, or over already.
        step = next(step for step in (*STEPS_OF_SAVING, 32, 40) if step > done)
        folder = run.dir / "checkpoints" / f"step_{step:06d}"
        launch.wait_until(lambda: folder.exists() or folder.with_suffix(".tmp").exists())
        return f"saving step {step}"
    step = done + injection.draw_step(1, 12)
    if moment == "evaluation":
        step = next(step for step in range(5, 48, 5) if step > done)
    launch.wait_until(lambda: count_steps(run.dir) >= step)
    return f"{moment} {step}"


def check_launcher(launch: Launched, run: Run, code: int, state: str) -> None:
    """Raise NotSurvivedError unless it ends so, and its run too; MissedError where it could not be stopped in time."""
    found = end_of(launch, 240)
    if (found, state_of(run.dir)) == (0, "finished") and code == STOPPED:
        raise MissedError("the run was finished first")
    if (found, state_of(run.dir)) != (code, state):
        raise NotSurvivedError(
            f"the launcher ended with {found} and the run is {state_of(run.dir)}, not {code} and {state}\n"
            + "\n".join(launch.text().splitlines()[-20:])
        )


def end_of(launch: Launched, timeout: float) -> int:
    try:
        return launch.end(timeout)
    except AssertionError as error:
        raise NotSurvivedError(str(error)) from error


def inject_kill_step(injection: Injection) -> None:
    """kill -9 of a rank somewhere in a step or in an evaluation: lost is what came after the last checkpoint."""
    place = injection.variant(("forward", "update", "evaluation"))
    rank, step = injection.random.randrange(2), injection.draw_step(1, 14)
    count = injection.random.randrange(2) if place == "forward" else 0
    backend = injection.random.choice(("ddp", "ddp", "zero2", "fsdp2"))
    run = injection.write_run()
    injection.say(backend)
    fault = injection.fault("kill", place, rank=rank, steps=(step,), count=count)
    check_struck_down(injection.start(run, backend, 2, fault), run, rank, [-signal.SIGKILL])
    injection.finish(run, backend, 2)
    injection.check_equals(run, backend, 2)


TIMEOUT_SECONDS = 15
UNTIL_GONE_SECONDS = 40  # torchrun gives a process 30 s before it kills it


def inject_stopped_rank(injection: Injection) -> None:
    """SIGSTOP of a rank: the others must name it and end, and the launcher must not leave it behind."""
    run = injection.write_run(LONG)
    rank, step = injection.random.randrange(2), injection.draw_step(2, 30)
    injection.say(f"SIGSTOP of rank {rank} after step {step}")
    arguments = ["train", str(run.yaml), "--set", f"parallel.timeout_seconds={TIMEOUT_SECONDS}"]
    with launched(injection.folder, "ddp", 2, arguments) as launch:
        launch.wait_until(lambda: count_steps(run.dir) >= step)
        stopped = launch.find("pref_dist", rank=rank)
        stopped.send_signal(signal.SIGSTOP)
        since = time.monotonic()
        await_standstill(launch, run)
        code = end_of(launch, TIMEOUT_SECONDS + UNTIL_GONE_SECONDS - (time.monotonic() - since))
        injection.say(f"all gone after {time.monotonic() - since:.0f} s")
        text = launch.text()
    # By its process as well: "[rank 1]" also stands before what rank 1 itself says.
    if code != PARALLEL_ERROR or f"rank {rank} (" not in text.lower() or f"pid {stopped.pid})" not in text:
        raise NotSurvivedError(
            f"the launcher ended with {code}; rank {rank}, pid {stopped.pid}, stood still\n{text[-3000:]}"
        )
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2, LONG)


def await_standstill(launch: Launched, run: Run) -> None:
    """Raise MissedError if the run is over in spite of it."""
    time.sleep(1)
    stopped = [process for process in launch.descendants() if status_of(process) == psutil.STATUS_STOPPED]
    if not stopped or state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")


def status_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return str(process.status())
    return "gone"
