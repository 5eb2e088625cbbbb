"""One real Slurm for all tests of a session."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import check_need
from tests.slurm.lab import Lab, why_not_here


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster that is stopped at the end. Skips where there can be none, or fails where there must be one."""
    check_need("slurm", why_not_here())
    # Not one of pytest's folders: others than root must get to munged's socket.
    folder = Path(tempfile.mkdtemp(prefix="pref_dist_slurm_"))
    folder.chmod(0o755)
    started = Lab(folder, tmp_path_factory.mktemp("job_logs"))
    try:
        started.start()
        yield started
    finally:
        started.stop()
