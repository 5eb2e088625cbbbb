"""What a check says, and what it is asked."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pref_dist.errors import ConfigError

if TYPE_CHECKING:
    from pref_dist.config.schema import RunConfig

State = Literal["ok", "warning", "error"]
NOT_HERE = "not here"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    state: error means that a training would fail, or would silently do something else. seen: what was found, with
    the values. remedy: what to do; empty where nothing is wrong.
    """

    name: str
    state: State
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class Question:
    """What is to be checked. run_yaml: a run config to check, too, or None. overrides: `--set` of the command."""

    run_yaml: str | None = None
    overrides: tuple[str, ...] = ()

    @cached_property
    def config(self) -> "RunConfig | None":
        """The run config, that of the defaults without a file; None if it is wrong, which the check `config` says."""
        from pref_dist.config.load import load_config

        try:
            return load_config(None if self.run_yaml is None else Path(self.run_yaml), self.overrides)
        except ConfigError:
            return None

    @property
    def asked_config(self) -> "RunConfig | None":
        """The run config if a file was given that can be read, else None."""
        return self.config if self.run_yaml is not None else None

    @property
    def asked_backend(self) -> str:
        """The back-end that is asked for; `auto` if none is."""
        return self.config.parallel.backend if self.config is not None else "auto"


@dataclass(frozen=True)
class Check:
    """A function that looks at one thing.

    seconds: how long it may take. hang_state, hang_remedy: what it means if it takes longer.
    """

    name: str
    look: Callable[[Question], Iterable[Finding]]
    seconds: float
    hang_state: State
    hang_remedy: str


def count_states(findings: Sequence[Finding]) -> dict[State, int]:
    counts: dict[State, int] = {"error": 0, "warning": 0, "ok": 0}
    for finding in findings:
        counts[finding.state] += 1
    return counts
