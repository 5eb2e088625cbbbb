"""What is to happen to a rank, and where: told to its process in one argument."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Place = Literal["tokenising", "rehearsal", "forward", "update", "evaluation", "files"]
Strike = Literal["signal", "kill", "nan", "skip", "out_of_memory", "no_memory_on_host", "fill_disk", "limit_files"]


@dataclass(frozen=True)
class Fault:
    """One fault. It strikes at its place in each of `steps` (counted from 1), after the place was passed `count` times.

    rank: the only one to be struck; None: all of them. value: the signal's name, or the largest file in bytes.
    mark: a file that is there as soon as it has struck; `{"step": ...}` a line.
    """

    strike: Strike
    place: Place
    mark: str
    rank: int | None = None
    steps: tuple[int, ...] = (0,)
    count: int = 0
    value: str = ""
    folder: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Fault":
        values = json.loads(text)
        return cls(**values | {"steps": tuple(values["steps"])})

    def has_struck(self) -> bool:
        return Path(self.mark).exists()

    def __str__(self) -> str:
        who = "any rank" if self.rank is None else f"rank {self.rank}"
        steps = f" of step {', '.join(map(str, self.steps))}" if self.place not in ("tokenising", "rehearsal") else ""
        value = f" {self.value}" if self.value else ""
        return f"{self.strike}{value} on {who} in {self.place}{steps}, place {self.count}"
