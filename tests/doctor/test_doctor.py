"""`pref-dist doctor` as a user starts it: what is wrong is named, with the remedy, in 20 s, whatever hangs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from pref_dist.doctor.children import run_groups
from pref_dist.doctor.deepspeed_ops import judge_op
from pref_dist.doctor.finding import Finding, Question
from pref_dist.doctor.network import is_meant
from pref_dist.doctor.slurm_job import judge_time
from pref_dist.doctor.versions import judge_package, read_ranges, read_tested_versions
from tests.ranks.disks import fill, small_disk
from tests.ranks.launch_ranks import REPO_ROOT

# On a machine that has time. Where others leave it none, what computes gets longer.
NAMED_WITHIN_SECONDS = 20 if os.getloadavg()[0] < 3 * (os.cpu_count() or 1) else 60


def examine(*arguments: object, **env: str) -> tuple[int, dict[str, list[Finding]], float]:
    """Run the verb; return its exit code, its findings by their names, and its seconds."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "pref_dist", "doctor", "--json", *map(str, arguments)]
    start = time.perf_counter()
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path, **env}
    )
    seconds = time.perf_counter() - start
    found: dict[str, list[Finding]] = {}
    for values in json.loads(result.stdout)["findings"]:
        found.setdefault(values["name"], []).append(Finding(**values))
    return result.returncode, found, seconds


@contextmanager
def hanging_hub() -> Iterator[str]:
    """An address where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def write_op(root: Path, name: str, command: str) -> Path:
    """Build an operator's folder as torch leaves it, so that ninja has nothing to do there; return its library."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "build.ninja").write_text(f"rule make\n  command = {command}\nbuild {name}.so: make\n", encoding="utf-8")
    ninja = Path(sys.executable).parent / "ninja"
    subprocess.run([ninja, "-C", folder], check=True, capture_output=True)
    return folder / f"{name}.so"


def test_a_sound_machine_has_no_errors_and_every_finding_says_what_was_seen(write_run, tmp_path):
    no_hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    code, found, seconds = examine(write_run()[0], TORCH_EXTENSIONS_DIR=str(tmp_path / "ops"), **no_hub)
    findings = [finding for several in found.values() for finding in several]
    assert code == 0, [finding for finding in findings if finding.state == "error"]
    assert seconds < NAMED_WITHIN_SECONDS
    assert all(finding.seen for finding in findings)
    assert all(bool(finding.remedy) == (finding.state != "ok") for finding in findings)
    names = ("Python", "torch", "CUDA", "GPUs", "NCCL", "Triton", "DeepSpeed ops", "CPU cores", "cache folder", "hub")
    assert not [
        name for name in (*names, "/dev/shm", "Slurm", "model", "data.train", "run folder") if name not in found
    ]
    assert found["torch"][0].seen.endswith("as tested")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    may_say_so = found["CUDA"][0].seen.startswith("not here") and ("avx512_bf16" in flags or "amx_bf16" in flags)
    assert ("train.precision=bf16 would use" in found["precision"][0].seen) == may_say_so
    assert (found["hub"][0].state, found["hub"][0].seen[:9]) == ("ok", "not asked"), "this model is a folder"
    assert "a checkpoint has about" in found["run folder"][0].seen
    assert not list(tmp_path.glob("**/.doctor*"))


def test_a_broken_op_cache_a_hung_hub_and_a_hung_file_are_each_named_in_time(write_run, tmp_path):
    ops = tmp_path / "ops"
    library = write_op(ops, "deepspeed_shm_comm", "touch $out")
    # A copy that was cut off. ninja looks at times alone, so that a training would load it, and crash.
    library.write_bytes((Path(find_spec("torch").origin).parent / "lib/libc10.so").read_bytes()[:3000])
    write_op(ops, "cpu_adam", "touch $out # -isystem /opt/another/torch/include ")
    os.mkfifo(tmp_path / "train.csv")  # opening it waits for a writer, as a file on a dead server does
    run_yaml, _ = write_run(data={"train": str(tmp_path / "train.csv")}, model={"name": "nobody/no-such-model"})
    with hanging_hub() as endpoint:
        env = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}
        code, found, seconds = examine(run_yaml, TORCH_EXTENSIONS_DIR=str(ops), **env)
    assert code == 1
    assert seconds < NAMED_WITHIN_SECONDS
    damaged, foreign = found["op deepspeed_shm_comm"][0], found["op cpu_adam"][0]
    assert damaged.state == "error"
    assert "is damaged or for another torch" in damaged.seen
    assert f"rm -r {ops / 'deepspeed_shm_comm'}" in damaged.remedy
    assert foreign.state == "warning"
    assert "/opt/another/torch" in foreign.seen
    assert (found["hub"][0].state, endpoint in found["hub"][0].seen) == ("warning", True)
    assert "no answer within 5 s" in found["hub"][0].seen
    assert "HF_HUB_OFFLINE=1" in found["hub"][0].remedy
    assert (found["model"][0].state, "no answer" in found["model"][0].seen) == ("error", True)
    assert (found["data"][0].state, "no answer within 1" in found["data"][0].seen) == ("error", True)
    assert found["DeepSpeed import"][0].state == "ok"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        if disk is None:
            pytest.skip("this user may not mount a small tmpfs")
        fill(disk)
        monkeypatch.setenv("PREF_DIST_CACHE_DIR", str(disk / "cache"))
        start = time.perf_counter()
        (finding,) = run_groups(["cache"], Question())
        assert time.perf_counter() - start < NAMED_WITHIN_SECONDS
    assert finding.state == "error"
    assert f"{disk / 'cache'}" in finding.seen
    assert "the disk is full" in finding.seen
    assert "PREF_DIST_CACHE_DIR" in finding.remedy


def test_a_run_folder_without_room_for_a_checkpoint_is_an_error(tmp_path, write_run, wide_model):
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        if disk is None:
            pytest.skip("this user may not mount a small tmpfs")
        run_yaml, _ = write_run(run={"dir": str(disk / "run")}, model={"name": str(wide_model)})
        (finding,) = run_groups(["run folder"], Question(str(run_yaml)))
    assert finding.state == "error"
    assert "are needed" in finding.seen
    assert "run.dir" in finding.remedy


def test_what_a_killed_build_left_locked_is_named(tmp_path):
    (tmp_path / "lock").touch()
    finding = judge_op(tmp_path, "cpu_adam", "zero2_offload")
    assert finding.state == "error"
    assert f"rm {tmp_path / 'lock'}" in finding.remedy


def test_a_wrong_setting_is_a_finding_that_hides_no_other():
    findings = run_groups(["machine"], Question(overrides=("parallel.backend=zero9",)))
    named = {finding.name: finding for finding in findings}
    assert named["run config"].state == "error"
    assert "parallel.backend" in named["run config"].seen
    assert named["open files"].seen


def test_the_installed_package_knows_the_versions_of_constraints_txt():
    copy = REPO_ROOT / "pref_dist/doctor/tested_versions.txt"
    assert copy.read_text(encoding="utf-8") == (REPO_ROOT / "constraints.txt").read_text(encoding="utf-8"), (
        f"cp constraints.txt {copy.relative_to(REPO_ROOT)}"
    )


@pytest.mark.parametrize(
    ("found", "state"), [("2.13.0+cu126", "ok"), ("2.12.1", "warning"), ("2.7.0", "error"), (None, "error")]
)
def test_a_version_outside_the_range_is_an_error_and_an_untested_one_a_warning(found, state):
    tested = read_tested_versions()["torch"]
    assert judge_package("torch", found, read_ranges()["torch"], tested, is_needed=True).state == state


@pytest.mark.parametrize(
    ("spent", "limit", "requeue", "state"),
    [
        ("00:10:00", "1-00:00:00", "1", "ok"),
        ("23:55:00", "1-00:00:00", "1", "warning"),
        ("00:00:10", "UNLIMITED", "0", "warning"),
    ],
)
def test_slurm_s_time_and_requeue_are_judged(spent, limit, requeue, state):
    assert judge_time({"RunTime": spent, "TimeLimit": limit, "Requeue": requeue}).state == state


def test_interfaces_are_read_as_nccl_does():
    assert is_meant("eth", "eth0")
    assert not is_meant("=eth", "eth0")
    assert is_meant("^docker,lo", "ib0")
    assert not is_meant("^docker,lo", "docker0")
