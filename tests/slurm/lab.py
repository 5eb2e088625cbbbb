"""A real Slurm of virtual nodes (cluster.sh), and what tests ask of it."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.launch.launched import clean_env
from tests.ranks.launch_ranks import REPO_ROOT

CLUSTER = REPO_ROOT / "tests" / "slurm" / "cluster.sh"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE")
NUM_PORTS = 7
PATIENCE_SECONDS = 240
CREDENTIAL_SECONDS = 5  # more than cluster.sh's cred_expire


def why_not_here() -> str:
    """Why there can be no cluster on this machine, or an empty string."""
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"there is no {', '.join(missing)}: bash launch/test.sh installs it as root on Debian"
    return ""


class Lab:
    """A cluster. `folder` is its own; jobs write their logs into `logs`."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs = folder, logs
        self.port = find_free_ports()
        self.env = clean_env(SLURM_CONF=str(folder / "etc" / "slurm.conf"), PYTHONPATH=str(REPO_ROOT))

    def start(self) -> None:
        """Bring up what is not up."""
        self.call("bash", str(CLUSTER), "start", str(self.folder), str(self.port))

    def stop(self) -> None:
        self.call("bash", str(CLUSTER), "stop", str(self.folder))

    def call(self, *command: object, is_allowed_to_fail: bool = False, **env: str) -> str:
        """What a command prints, both streams; called from the repository's root, as users do."""
        done = subprocess.run(
            [str(part) for part in command], cwd=REPO_ROOT, env=self.env | env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or is_allowed_to_fail, f"{command}\n{done.stdout}"
        return done.stdout

    def node(self, number: int) -> str:
        return f"n{self.port}x{number}"

    def state_of(self, number: int) -> str:
        """What Slurm thinks of a node, without the star of one that does not answer."""
        states = self.call("sinfo", "--noheader", f"--nodes={self.node(number)}", "--format=%T").split()
        return states[0].rstrip("*")

    def submit(self, *command: object, **env: str) -> str:
        """Submit a job to the partition gpu, if no other is named; return its number."""
        output = self.call(
            "sbatch", "--parsable", f"--output={self.logs}/%j.out", "--time=10", "--partition=gpu", "--cpus-per-task=1",
            "--gpus-per-node=1", *command, **env,
        )  # fmt: skip
        return output.strip()

    def show(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job, "--oneliner")))

    def log(self, job: str) -> str:
        path = self.logs / f"{job}.out"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait_until(self, happened: Callable[[], object], what: str, *jobs: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"{what} did not happen\n" + "\n".join(map(self.explain, jobs))
            time.sleep(0.2)

    def wait_for_end(self, job: str) -> dict[str, str]:
        """Wait until a job has ended for good, and return what Slurm says of it."""
        self.wait_until(lambda: self.show(job)["JobState"] in ENDED, "its end", job)
        return self.show(job)

    def wait_for_restart(self, job: str, count: int) -> None:
        """Wait until a job that was put back at least `count` times runs again.

        Slurm itself waits until credentials of the try before have expired (cred_expire); a job that is told to start
        earlier fails at once.
        """
        pending_since: list[float] = []

        def runs_again() -> bool:
            shown = self.show(job)
            is_back = int(shown["Restarts"]) >= count
            if is_back and shown["JobState"] == "PENDING":
                pending_since.append(time.monotonic())
                if time.monotonic() - pending_since[0] > CREDENTIAL_SECONDS:
                    self.call("scontrol", "update", f"jobid={job}", "starttime=now", is_allowed_to_fail=True)
            return is_back and shown["JobState"] in ("RUNNING", *ENDED)

        self.wait_until(runs_again, f"restart {count}", job)

    def explain(self, job: str) -> str:
        return f"--- {self.call('scontrol', 'show', 'job', job, is_allowed_to_fail=True)}\n{self.log(job)}"

    def kill_node(self, number: int) -> None:
        """End all that runs on a virtual node, as a power loss does."""
        name = self.node(number)
        daemon = psutil.Process(int((self.folder / "pid" / f"slurmd.{name}.pid").read_text(encoding="utf-8")))
        log = str(self.folder / "log" / f"slurmd.{name}.log")
        managers = [one for one in psutil.process_iter() if one.name() == "slurmstepd" and log in files_of(one)]
        # The one that would start others goes first.
        for process in (daemon, *managers):
            with suppress(psutil.NoSuchProcess):
                children = process.children(recursive=True)
                process.send_signal(signal.SIGKILL)
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()


def files_of(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return [file.path for file in process.open_files()]
    return []


def find_free_ports() -> int:
    """The first of some ports in a row that nobody has, below those of jobs and of the system."""
    for _ in range(100):
        first = random.SystemRandom().randrange(17000, 19990, 10)
        with suppress(OSError):
            for port in range(first, first + NUM_PORTS):
                with socket.socket() as one:
                    one.bind(("", port))
            return first
    raise AssertionError("no free ports between 17000 and 20000")
