"""What the probes share: a finished run whose training had tokens in its environment."""

import json
from dataclasses import replace
from pathlib import Path

from tests.security.place import SECRETS, Place, run_program


def make_world(folder: Path, sample: Path, model: Path) -> Place:
    place = Place(folder, model, sample, folder / "run", folder / "cache", "")
    config = place.write_config(run={"dir": str(folder / "run"), "trackers": ["tensorboard"]})
    done = run_program("train", config, HF_HUB_OFFLINE="1", **SECRETS)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "run" / "state.json").read_text())["state"] == "finished"
    return replace(place, said=done.stdout + done.stderr)


def of_probe(world: Place, folder: Path) -> Place:
    """Return the world with a folder of the probe's own."""
    return replace(world, folder=folder)
