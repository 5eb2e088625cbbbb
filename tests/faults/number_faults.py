"""Faults of numbers and of memory: NaN on one rank, a loss scale that overflows again and again, no memory."""

from pathlib import Path

from tests.faults.checks import Record, list_steps, read_record
from tests.faults.injection import Injection, check_refused, check_struck_down
from tests.faults.scene import WITHOUT_DROPOUT, Run, Setting
from tests.faults.verdicts import CannotRunError, NotSurvivedError, SilentlyWrongError

TRAINING_ERROR = 7
OUT_OF_MEMORY = 9
STEP_LAST_OF_EPOCH = 11  # of fewer rows: a rank may have only a spare micro-batch, whose NaN counts for nothing
MOST_SKIPPED = 2


def inject_nan(injection: Injection) -> None:
    """NaN in one row of one rank: that step is skipped by all; in too many steps in a row: all end and name it."""
    backend = injection.variant(("ddp", "zero2", "fsdp2", "ddp", "zero1", "zero3"))
    rank, once = injection.random.randrange(2), injection.random.randint(1, 3)
    again = tuple(range(injection.random.randint(6, 8), STEP_LAST_OF_EPOCH))
    run = injection.write_run(train={"max_skipped_steps": MOST_SKIPPED})
    injection.say(backend)
    fault = injection.fault("nan", "forward", rank=rank, steps=(once, *again))
    ending = injection.start(run, backend, 2, fault)
    if ending.has_succeeded:
        raise SilentlyWrongError("finished with NaN in more steps in a row than train.max_skipped_steps")
    last = again[MOST_SKIPPED]
    check_refused(ending, [TRAINING_ERROR], "train.max_skipped_steps", f"step {last}", f"rank {rank}", "row")
    injection.finish(run, backend, 2)
    check_skipped(injection, run, backend, once, again)


def check_skipped(injection: Injection, run: Run, backend: str, once: int, again: tuple[int, ...]) -> None:
    """The reference leaves out the updates of the same steps, by other means, on ranks that hold the whole model."""
    skipped = read_record(run.dir).skipped
    if skipped[:1] != (once,) or not set(skipped) <= {once, *again}:
        raise SilentlyWrongError(f"NaN stood in steps {(once, *again)}, and those that changed nothing are {skipped}")
    injection.check_equals(run, "ddp", 2, is_exact=backend == "ddp")


def fp16_setting(exponent: int) -> Setting:
    """2 to the exponent overflows fp16 at once, and is halved in each step; the first of them are skipped."""
    train = {
        "precision": "fp16", "initial_loss_scale": 2.0**exponent, "max_steps": 40, "epochs": 4,
        "max_skipped_steps": 40, "loss_scale_growth_interval": 5,
    }  # fmt: skip
    return Setting(f"fp16_{exponent}", 40, {"train": train})


def inject_fp16_overflow(injection: Injection) -> None:
    """A loss scale far too large: ends after max_skipped_steps, alike each time; allowed more, it finds its place."""
    if "avx512_fp16" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        raise CannotRunError("this CPU has no avx512_fp16")
    exponent, most = injection.random.randint(32, 38), injection.random.randint(2, 6)
    setting, backend = fp16_setting(exponent), injection.variant(("ddp", "zero2", "fsdp2"))
    run = injection.write_run(setting, train={"max_skipped_steps": most})
    injection.say(f"{backend}, loss scale 2^{exponent}, at most {most} steps skipped")
    ending = injection.start(run, backend, 2)
    if ending.has_succeeded:
        raise SilentlyWrongError("finished although more steps in a row were skipped than allowed")
    check_refused(ending, [TRAINING_ERROR], "train.max_skipped_steps", f"step {most + 1}")
    injection.finish(run, backend, 2, "--set", "train.max_skipped_steps=40")
    injection.check_equals(run, backend, 2, setting)


def inject_out_of_memory(injection: Injection) -> None:
    """No memory on one rank: in the rehearsal the budget is halved at once, in a later step for the next start."""
    rank = injection.random.randrange(2)
    strike = injection.random.choice(("out_of_memory", "no_memory_on_host"))
    run = injection.write_run(WITHOUT_DROPOUT)
    expected = injection.scene.reference(WITHOUT_DROPOUT, "ddp", 2)
    if injection.variant(("step", "rehearsal")) == "rehearsal":
        ending = injection.start(run, "ddp", 2, injection.fault(strike, "rehearsal", rank=rank))
        if not ending.has_succeeded:
            raise NotSurvivedError(f"exit codes {ending.exit_codes}; the budget was to be halved\n{ending.tail()}")
        begun = 0
    else:
        step = injection.draw_step(2, 14)
        ending = injection.start(run, "ddp", 2, injection.fault(strike, "forward", rank=rank, steps=(step,)))
        check_struck_down(ending, run, rank, [OUT_OF_MEMORY])
        begun = max(list_steps(run.dir), default=0)
        injection.finish(run, "ddp", 2)
    if "token_budget" not in ending.text:
        raise NotSurvivedError(f"nobody named train.token_budget\n{ending.tail()}")
    check_smaller_budget(read_record(run.dir), expected, begun)
    injection.check_equals(run, "ddp", 2, WITHOUT_DROPOUT, is_exact=False)


def check_smaller_budget(found: Record, expected: Record, begun: int) -> None:
    """Raise NotSurvivedError unless the steps after `begun` were cut into more micro-batches."""
    ours, theirs = (sum(line["micro_batches"] for line in record.steps[begun:]) for record in (found, expected))
    if ours <= theirs:
        raise NotSurvivedError(
            f"{ours} micro-batches after step {begun}, and {theirs} with the budget that did not fit"
        )
