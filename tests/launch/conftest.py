"""The launchers, as fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.launched import Launched, clean_env
from tests.ranks.launch_ranks import REPO_ROOT

LAUNCH = REPO_ROOT / "launch"


@pytest.fixture
def launch(tmp_path: Path) -> Iterator:
    """Return a function that starts a command in an empty folder; what still runs after the test is killed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    started: list[Launched] = []

    def start(*command: object, cwd: Path = elsewhere, **env: str) -> Launched:
        if str(command[0]).endswith(".sh"):
            command = ("bash", LAUNCH / str(command[0]), *command[1:])
        started.append(Launched(command, tmp_path / f"output_{len(started)}.txt", cwd, clean_env(**env)))
        return started[-1]

    yield start
    for one in started:
        one.kill()
