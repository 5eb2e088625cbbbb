"""python -m tests.security: tries every probe and prints what was blocked."""

import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from pref_dist.data.synthetic import write_sample
from tests.security.table import PROBES, Probe
from tests.security.world import Place, make_world, of_probe
from tests.tiny_model import write_tiny_model


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="security-") as name:
        folder = Path(name)
        write_sample(folder / "sample", num_train=300, num_test=60, seed=7)
        model = write_tiny_model(folder / "tiny", folder / "sample" / "train.csv")
        (folder / "world").mkdir()
        world = make_world(folder / "world", folder / "sample", model)
        tried = {}
        for number, (name, probe) in enumerate(PROBES.items()):
            tried[name] = failure = try_probe(probe, of_probe(world, folder / f"probe_{number}"))
            print("blocked" if failure is None else "OPEN   ", name, failure or "", flush=True)
    num_open = sum(failure is not None for failure in tried.values())
    print(f"security: {len(tried) - num_open} blocked / {len(tried)} tried")
    return 1 if num_open else 0


def try_probe(probe: Probe, place: Place) -> str | None:
    """Return what went wrong, None if the attempt was blocked."""
    place.folder.mkdir()
    try:
        probe(place)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return None


if __name__ == "__main__":
    sys.exit(main())
