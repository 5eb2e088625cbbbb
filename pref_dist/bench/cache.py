"""`bench cache`: from a file to stored tokens, ours beside `datasets.map`, in time, processor time and memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pref_dist.bench.children import run_child
from pref_dist.bench.parts import CacheQuestion
from pref_dist.bench.request import SEED, BenchRequest, describe_machine, scratch_folder
from pref_dist.bench.rows import draw_rows, read_rows, repeat_rows, write_rows
from pref_dist.data.workers import count_cores
from pref_dist.errors import BenchError, ConfigError

NUM_SYNTHETIC_ROWS = 20_000


@dataclass
class Builds:
    """All builds of one way: what each process found. failure: why there are no more."""

    name: str
    part: str
    num_processes: int = 1
    found: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""

    def values(self, figure: str) -> list[float]:
        if figure == "tokens_per_second":
            return [one["tokens"] / one["seconds"] for one in self.found]
        return [one[figure] for one in self.found]

    def to_json(self) -> dict[str, Any]:
        figures = ("seconds", "processor_seconds", "tokens_per_second", "tree_bytes")
        known = {"way": self.name, "failure": self.failure, "repeats": len(self.found)}
        if not self.found:
            return known
        counted = {"rows": self.found[0]["rows"], "tokens": self.found[0]["tokens"]}
        return known | counted | {
            name: {"median": median(self.values(name)), "spread": [min(self.values(name)), max(self.values(name))]}
            for name in figures
        }  # fmt: skip


@dataclass(frozen=True)
class CacheComparison:
    """ratios: by the peer's name, its median seconds over ours."""

    ways: list[Builds]
    ratios: dict[str, float]
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.about, "ways": [way.to_json() for way in self.ways], "ratios": self.ratios}


def bench_cache(request: BenchRequest, num_rows: int | None, num_processes: int | None = None) -> CacheComparison:
    """Measure builds of the same file, ways taking turns, and a warm start. Raises PrefDistError.

    num_rows: of the file; None: all of --data, or 20,000 synthetic ones. More than it has: they repeat, marked.
    num_processes: of a second datasets.map, None: as many as cores, 1: there is none.
    """
    if num_rows is not None and num_rows < 1:
        raise ConfigError(f"--rows={num_rows} must be 1 or more.")
    ways, machine = list_ways(num_processes or count_cores()), describe_machine()
    with scratch_folder() as folder:
        rows_csv, count = write_source(request, num_rows, folder)
        request.say(
            f"building tokens of {count:,} rows ({rows_csv.stat().st_size / 2**20:.1f} MiB of {request.data_name}), "
            f"{request.repeats} x {len(ways)} processes, one after another"
        )
        model = request.make_model(folder)
        for _ in range(request.repeats):
            for way in ways:
                measure(way, CacheQuestion("", str(rows_csv), model, request.max_tokens, way.num_processes), request)
    about = {"verb": "cache", "machine": machine, **request.describe(), "rows": count}
    return CacheComparison(ways, compare(ways), about)


def list_ways(num_processes: int) -> list[Builds]:
    name = f"datasets.map, num_proc={num_processes}"
    several = [Builds(name, "map_cache", num_processes)] if num_processes > 1 else []
    return [
        Builds("own", "own_cache"),
        Builds("datasets.map", "map_cache"),
        *several,
        Builds("own, warm", "warm_cache"),
    ]


def write_source(request: BenchRequest, num_rows: int | None, folder: Path) -> tuple[Path, int]:
    count = num_rows or NUM_SYNTHETIC_ROWS
    rows = draw_rows(None, count, folder, SEED) if request.data is None else read_rows(request.data)
    count = num_rows or len(rows)
    return write_rows(folder / "rows.csv", repeat_rows(rows, count)), count


def measure(way: Builds, question: CacheQuestion, request: BenchRequest) -> None:
    """Let one process build in a folder of its own, so that nothing is found again."""
    if way.failure:
        return
    with scratch_folder() as place:
        own = CacheQuestion(str(place), question.rows_csv, question.model, question.max_tokens, question.num_processes)
        try:
            way.found.append(run_child(way.part, own, watch_memory=True))
        except BenchError as error:
            way.failure = str(error)
    last = f"{way.found[-1]['seconds']:.2f} s" if not way.failure else "FAILED"
    request.say(f"  {way.name}: {last}")


def compare(ways: Sequence[Builds]) -> dict[str, float]:
    """Return each peer's median seconds over ours."""
    own = ways[0]
    if not own.found:
        return {}
    peers = (way for way in ways if way.part == "map_cache" and way.found)
    return {peer.name: median(peer.values("seconds")) / median(own.values("seconds")) for peer in peers}


def raise_failures(ways: Sequence[Builds]) -> None:
    """Raise BenchError, naming every way without an answer."""
    failed = [way for way in ways if way.failure]
    if failed:
        reasons = [f"{way.name}: {way.failure}" for way in failed]
        raise BenchError("\n\n".join((f"{len(failed)} of {len(ways)} could not be measured.", *reasons)))
