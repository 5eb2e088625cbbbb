"""Several launchers that are signalled at once, and launchers that nobody hears any more."""

import os
import shlex
import signal
import subprocess
import time

from tests.launch.launched import clean_env
from tests.ranks.launch_ranks import REPO_ROOT


def test_launchers_that_share_a_folder_or_have_lost_their_log_all_pass_a_signal_on(tmp_path):
    """As in a Slurm job, whose nodes are signalled at once; and as in `... 2>&1 | tee log`, where tee ends first."""
    script = tmp_path / "launcher.sh"
    # It ends by itself, so that a launcher that dies leaves nothing running.
    wait = "touch $1; for _ in {1..600}; do [ ! -e $PREF_DIST_LAUNCH_DIR/stop ] || exit 0; sleep 0.05; done; exit 1"
    script.write_text(
        f"set -euo pipefail\n. {shlex.quote(str(REPO_ROOT / 'launch' / 'supervise.sh'))}\n"
        f"supervise train 1 bash -c {shlex.quote(wait)} waiting $1\n",
        encoding="utf-8",
    )
    reading, writing = os.pipe()
    os.close(reading)
    env = clean_env(PREF_DIST_LAUNCH_DIR=str(tmp_path))
    launchers = [
        subprocess.Popen(["bash", script, tmp_path / f"up_{number}"], env=env, stderr=writing) for number in range(4)
    ]
    os.close(writing)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("up_*"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for launcher in launchers:
        launcher.send_signal(signal.SIGTERM)
    assert [launcher.wait(timeout=30) for launcher in launchers] == [0, 0, 0, 0]
    assert (tmp_path / "stop").read_text(encoding="utf-8") == "signal SIGTERM\n"
