"""A rank that a fault strikes: `python -m tests.faults.faulty_rank FAULT VERB ...`, else as `python -m pref_dist`.

FAULT is a `Fault` as JSON. Other ranks of the same start run the same program, without anything wrapped.
"""

import functools
import os
import sys
from pathlib import Path

import pref_dist.train.assemble as assemble
from pref_dist.cli.program import main
from pref_dist.config.load import load_config
from tests.faults.fault import Fault
from tests.faults.places import arm

SMALL_SHARD_BYTES = 20_000  # so that every rank has some of a tiny model to write


def run() -> None:
    fault = Fault.from_json(sys.argv[1])
    sys.argv = ["pref_dist", *sys.argv[2:]]
    assemble.CheckpointWriter = functools.partial(assemble.CheckpointWriter, shard_bytes=SMALL_SHARD_BYTES)
    if fault.rank is None or fault.rank == int(os.environ.get("RANK", "0")):
        run_dir = Path(load_config(Path(sys.argv[2]), ()).run.dir) if fault.place == "files" else None
        arm(fault, run_dir)
    main()


if __name__ == "__main__":
    run()
