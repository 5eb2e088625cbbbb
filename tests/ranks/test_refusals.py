"""Promise 3: a launch, a back-end or a precision that would not be what it says ends loudly."""

import os
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.ranks.launch_ranks import REPO_ROOT, rank_env, run_ranks, start_ranks
from tests.ranks.run_verb import launch_env, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]


OF_A_LAUNCHER = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def run_alone(*module, **environment):
    """Start `python -m MODULE ...` as one process that is not told of any other."""
    env = {key: value for key, value in rank_env(0, 1, 1).items() if key not in OF_A_LAUNCHER}
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, env=env | environment, cwd=REPO_ROOT, capture_output=True, text=True, timeout=120)


def train_alone(run_yaml, *arguments, **environment):
    return run_alone("pref_dist", "train", str(run_yaml), *arguments, **environment)


def test_ranks_that_do_not_see_each_other_refuse_to_train(write_run):
    run_yaml, run_dir = write_run()
    for _ in range(2):
        result = train_alone(run_yaml, "--set", "parallel.world_size=2")
        assert result.returncode == 4
        assert "parallel.world_size=2 was asked for, but this process sees 1" in result.stderr
    assert not (run_dir / "checkpoints").exists()


def test_srun_tasks_that_would_each_train_alone_refuse(write_run):
    result = train_alone(write_run()[0], SLURM_STEP_NUM_TASKS="2")
    assert result.returncode == 4
    assert "each would train alone" in result.stderr


def test_a_lock_that_a_killed_build_of_an_operator_left_is_refused_and_not_waited_for(write_run, tmp_path):
    lock = tmp_path / "ops" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 1200, time.time() - 1200))
    run_yaml, run_dir = write_run(parallel={"backend": "zero2", "world_size": 1})
    env = launch_env("zero2") | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "ops")}
    (result,) = run_ranks("pref_dist", 1, ["train", str(run_yaml)], env)
    assert result.exit_code == 4, result.stderr
    assert f"{lock} was left 20 minutes ago" in result.stderr
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize("asked", [[], ["--set", "parallel.world_size=2"]], ids=["auto", "asked for 2"])
def test_accelerates_multi_cpu_trap_is_caught_even_where_no_world_size_was_asked_for(write_run, tmp_path, asked):
    # `distributed_type: MULTI_CPU` with 2 processes runs one process, and says nothing.
    config = tmp_path / "trap.yaml"
    lines = (
        "compute_environment: LOCAL_MACHINE",
        "distributed_type: MULTI_CPU",
        "num_processes: 2",
        "num_machines: 1",
        "use_cpu: true",
    )
    config.write_text("\n".join(lines), encoding="utf-8")
    launcher = ["accelerate.commands.launch", "--config_file", str(config), "-m", "pref_dist"]
    result = run_alone(*launcher, "train", str(write_run()[0]), *asked)
    assert result.returncode != 0
    assert "would train alone" in result.stderr


def test_a_wrong_back_end_is_refused(write_run):
    run_yaml, _ = write_run()
    results = run_ranks(
        "pref_dist", 2, ["train", str(run_yaml), "--set", "parallel.backend=zero2"], launch_env("zero1")
    )
    for result in results:
        assert result.exit_code == 4
        assert "parallel.backend=zero2 was asked for, but the launch gives zero1" in result.stderr


def test_fp16_on_a_cpu_without_it_is_refused(write_run):
    run_yaml, _ = write_run(train={"precision": "fp16"})
    # The library is told to see a CPU without avx512_fp16.
    results = run_ranks("pref_dist", 1, ["train", str(run_yaml)], {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})
    assert results[0].exit_code == 4
    assert "train.precision=fp16, but this CPU has no fp16 arithmetic" in results[0].stderr


@pytest.mark.parametrize("differs", ["settings", "rows"])
def test_ranks_that_see_each_other_but_were_given_different_runs_refuse(write_run, sample_dir, tmp_path, differs):
    script = tmp_path / "each_its_own.py"
    script.write_text(
        "import os, sys\n"
        "from pref_dist.cli import main\n"
        "sys.argv = ['pref_dist', 'train', sys.argv[1 + int(os.environ['RANK'])]]\n"
        "main()\n",
        encoding="utf-8",
    )
    fewer = tmp_path / "fewer.csv"
    pd.read_csv(sample_dir / "train.csv", dtype=str).head(200).to_csv(fewer, index=False)
    other = {"train": {"learning_rate": 1e-5}} if differs == "settings" else {"data": {"train": str(fewer)}}
    first, run_dir = write_run("same")
    second, _ = write_run("other", **other, run={"dir": str(run_dir)})
    for result in run_ranks(script, 2, [str(first), str(second)]):
        assert result.exit_code == 4
        assert "Rank 1 does not agree with rank 0 on " in result.stderr
        assert ("train.learning_rate" if differs == "settings" else "the rows") in result.stderr


def test_fp64_weights_under_zero_are_refused(write_run):
    run_yaml, _ = write_run(model={"weight_dtype": "fp64"})
    result = run_verb("zero2", 1, ["train", str(run_yaml)])[0]
    assert result.exit_code == 4
    assert "model.weight_dtype=fp64" in result.stderr


def test_two_runs_in_one_folder_are_refused(write_run):
    from filelock import FileLock

    run_yaml, run_dir = write_run()
    run_dir.mkdir()
    with FileLock(run_dir / ".lock"):
        result = run_verb("single", 1, ["train", str(run_yaml)])[0]
    assert result.exit_code == 2
    assert "Another process is training" in result.stderr


def test_ranks_whose_port_another_program_holds_end_in_time_and_name_it(write_run):
    """The other program takes connections and never answers: torch alone would wait for it without a limit."""
    run_yaml, run_dir = write_run("port")
    asked = ["parallel.backend=ddp", "parallel.world_size=2", "parallel.timeout_seconds=3"]
    arguments = ["train", str(run_yaml), *(part for setting in asked for part in ("--set", setting))]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with start_ranks("pref_dist", 2, arguments, {"MASTER_PORT": port}) as ranks:
            results = ranks.wait(timeout=60, grace_seconds=40)
    assert [result.exit_code for result in results] == [4, 4], results
    for result in results:
        assert f"127.0.0.1:{port}" in result.stderr
        assert "MASTER_PORT" in result.stderr
        assert "Traceback" not in result.stderr
    assert "in use" in results[0].stderr
    assert "parallel.timeout_seconds=3" in results[1].stderr
    assert not run_dir.exists()
