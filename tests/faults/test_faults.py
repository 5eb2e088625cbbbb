"""A sample of the fault harness, as `bash launch/faults.sh` runs it; all classes take minutes and run apart."""

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.classes import CLASSES
from tests.launch.launched import Launched, clean_env
from tests.ranks.launch_ranks import REPO_ROOT

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

# Those that no other test covers in such depth.
SAMPLE = ("kill_saving", "back_end", "damaged_cache")


@pytest.fixture
def start_harness(tmp_path: Path):
    """Return a function that starts the harness, all its files below the test's folder."""
    started: list[Launched] = []

    def start(*names: str) -> Launched:
        only = [word for name in names for word in ("--only", name)]
        command = ("bash", REPO_ROOT / "launch" / "faults.sh", "--seed", "2", *only)
        started.append(Launched(command, tmp_path / "output.txt", tmp_path, clean_env(TMPDIR=str(tmp_path))))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def has_ranks(harness: Launched) -> bool:
    """Whether the process that ranks are forked from has forked any."""
    for process in harness.descendants():
        with suppress(psutil.NoSuchProcess):
            if "tests.ranks.nursery" in process.cmdline() and process.children():
                return True
    return False


def test_there_are_fifteen_classes_of_faults():
    assert len(CLASSES) == 15


def test_a_sample_of_faults_is_survived_without_a_silent_wrong_result(start_harness, tmp_path):
    harness = start_harness(*SAMPLE)
    code = harness.end(timeout=500)
    assert harness.text().splitlines()[-1] == f"faults: {len(SAMPLE)}/{len(SAMPLE)}, silent wrong results: 0", (
        harness.text()
    )
    assert code == 0
    assert not list(tmp_path.glob("pref_dist_faults_*"))


def test_ctrl_c_ends_the_harness_with_all_that_it_has_started(start_harness):
    harness = start_harness("kill_step")
    harness.wait_until(lambda: has_ranks(harness))
    harness.process.send_signal(signal.SIGINT)
    assert harness.end(timeout=30) == 130, harness.text()
    assert "faults:" not in harness.text()
