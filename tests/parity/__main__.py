"""python -m tests.parity [--out FILE] [--only BACKEND]: measures everything, writes the table, fails beyond a bound."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pref_dist.data.synthetic import write_sample
from tests.parity.kinds import KINDS, fp16_runs
from tests.parity.measure import Difference, Measured, Parity
from tests.parity.table import render_page
from tests.tiny_model import write_tiny_model
from tests.tiny_runs import TinyRuns

PLACES = (
    *(("ddp", ranks) for ranks in (2, 3, 4)),
    *((f"zero{stage}", ranks) for stage in (0, 1, 2, 3) for ranks in (1, 2, 3)),
    *((f"zero{stage}_offload", ranks) for stage in (2, 3) for ranks in (1, 2, 3)),
    *(("fsdp2", ranks) for ranks in (2, 3, 4)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bash launch/parity.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/parity.md"), help="where the page goes")
    parser.add_argument("--only", choices=sorted({backend for backend, _ in PLACES}), help="one back-end; no page")
    options = parser.parse_args(arguments)
    places = [place for place in PLACES if options.only in (None, place[0])]
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        measured = measure_all(Path(folder), places)
    if options.only is None:
        options.out.write_text(render_page(measured), encoding="utf-8")
        print(f"table: {options.out}")
    num_beyond = sum(not found.is_within(kind) for cells in measured.values() for kind, found in cells.items())
    num_cells = sum(map(len, measured.values()))
    print(f"parity: {num_cells - num_beyond}/{num_cells} within the bounds")
    return 1 if num_beyond else 0


def measure_all(folder: Path, places: Sequence[tuple[str, int]]) -> Measured:
    write_sample(folder / "sample", num_train=300, num_test=60, seed=7)
    train = folder / "sample" / "train.csv"
    runs = TinyRuns(folder, train, write_tiny_model(folder / "model", train), folder / "cache")
    kinds = [kind for kind in KINDS if kind.precision != "fp16" or fp16_runs()]
    parity = Parity(runs.write, folder, kinds)
    measured: Measured = {}
    for place in places:
        measured[place] = parity.measure(*place)
        for kind, found in measured[place].items():
            print(f"{place[0]}, {place[1]} ranks, {kind.name}: {render(found, found.is_within(kind))}", flush=True)
    return measured


def render(found: Difference, is_within: bool) -> str:
    text = f"loss {found.loss:.1e}, parameters {found.parameter:.1e}, norm {found.norm:.1e}"
    return text if is_within else f"{text}  BEYOND THE BOUND"


if __name__ == "__main__":
    sys.exit(main())
