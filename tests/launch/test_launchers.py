"""launch/*.sh as a user starts them: real processes, from a folder that is not the repository's."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.launch.launched import Launched
from tests.ranks.launch_ranks import REPO_ROOT, find_free_port
from tests.ranks.run_verb import largest_loss_difference, read_losses

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

LAUNCH = REPO_ROOT / "launch"
# Enough steps that a signal after the third one comes in mid-run.
LONG = {"max_steps": 40, "epochs": 2, "save_every_steps": 5}
STOPPED = 75
OUR_LINES = (
    "cache ", "rows ", "cut ", "steps ", "batches ", "model ", "ranks ", "run ", "memory ", "step ",
    "Going on from step ", "finished at step ", "best valid log loss ", "run folder: ",
)  # fmt: skip


def state_of(run_dir: Path) -> str:
    return json.loads((run_dir / "state.json").read_text(encoding="utf-8"))["state"]


def end_all(launched: list[Launched]) -> list[int]:
    """The exit codes of launchers that are one run; where one does not end, what the others have said is shown too."""
    try:
        return [one.end() for one in launched]
    except AssertionError as error:
        error.add_note("\n".join(f"--- number {number}:\n{one.explain()}" for number, one in enumerate(launched)))
        raise


def check_finishes(launched: Launched, run_dir: Path) -> None:
    assert launched.end() == 0, launched.text()
    assert state_of(run_dir) == "finished"


def check_says_nothing_else(launched: Launched) -> None:
    """No line of a library, on either stream: what nobody needs to read hides what somebody must."""
    assert not [line for line in launched.text().splitlines() if not line.startswith(OUR_LINES)]


@pytest.fixture(scope="module")
def single_losses_of() -> dict[str, list[float]]:
    return {}


@pytest.fixture
def single_losses(single_losses_of, launch, write_run) -> list[float]:
    """The loss of each of the default 20 steps in one process."""
    if not single_losses_of:
        run_yaml, run_dir = write_run("reference")
        check_finishes(launch("single.sh", "train", run_yaml), run_dir)
        single_losses_of["default"] = read_losses(run_dir)
    return single_losses_of["default"]


@pytest.mark.parametrize("backend", ["zero2", "fsdp2"])
def test_node_sh_trains_on_two_ranks_that_share_the_model(launch, write_run, single_losses, backend):
    run_yaml, run_dir = write_run(backend)
    launched = launch("node.sh", backend, 2, "train", run_yaml)
    check_finishes(launched, run_dir)
    assert f"2 x cpu, {backend}" in launched.text()
    check_says_nothing_else(launched)
    assert largest_loss_difference(read_losses(run_dir), single_losses) < 1e-5


@pytest.mark.parametrize(
    ("script", "number"), [(("node.sh", "ddp", "2"), signal.SIGINT), (("single.sh",), signal.SIGUSR1)]
)
def test_a_signal_to_the_launcher_saves_the_run_and_the_same_command_finishes_it(launch, write_run, script, number):
    run_yaml, run_dir = write_run("a run with spaces", train=LONG)
    stopped = launch(*script, "train", run_yaml)
    stopped.wait_for_step(run_dir, 3)
    stopped.process.send_signal(number)
    assert stopped.end(timeout=60) == STOPPED, stopped.text()
    reason = "Ctrl-C" if number == signal.SIGINT else f"signal {number.name}"
    assert f"({reason})\n" in stopped.text()
    assert "the same command goes on from there" in stopped.text()
    assert state_of(run_dir) == "stopped"
    again = launch(*script, "train", run_yaml)
    check_finishes(again, run_dir)
    assert "Going on from" in again.text()
    check_says_nothing_else(again)
    assert len(read_losses(run_dir)) == LONG["max_steps"]


def test_a_rank_or_the_launcher_killed_hard_leaves_nothing_running_and_the_same_command_goes_on(launch, write_run):
    run_yaml, run_dir = write_run("killed", train=LONG)
    command = ("node.sh", "ddp", 2, "train", run_yaml)
    first = launch(*command)
    first.wait_for_step(run_dir, 6)
    first.find("pref_dist", rank=1).kill()
    watch = time.monotonic()
    assert first.end(timeout=60) == 4, first.text()
    print(f"all processes were gone {time.monotonic() - watch:.1f} s after the kill")
    assert "Rank 1 (" in first.text(), first.text()
    assert "gave no sign for 3 s" in first.text()
    second = launch(*command)
    second.wait_until(lambda: "Going on from" in second.text())
    second.find("accelerate.commands.launch").kill()
    assert second.end(timeout=60) not in (0, STOPPED), second.text()
    third = launch(*command)
    check_finishes(third, run_dir)
    assert "Going on from" in third.text()
    assert len(read_losses(run_dir)) == LONG["max_steps"]


def test_a_failed_rank_gives_the_launcher_its_own_exit_code_where_torchrun_says_1(launch, write_run):
    # The first update makes every weight infinite.
    run_yaml, _ = write_run("diverged", train={"learning_rate": 1e38, "warmup_fraction": 0.0, "max_skipped_steps": 0})
    launched = launch("node.sh", "ddp", 2, "train", run_yaml)
    assert launched.end() == 7, launched.text()
    assert "train.max_skipped_steps=0" in launched.text()


def test_two_machines_are_one_run_that_a_signal_to_either_stops(launch, write_run, single_losses):
    run_yaml, run_dir = write_run("two_machines")

    def start() -> list[Launched]:
        port = find_free_port()
        return [launch("nodes.sh", "ddp", 2, node, 1, "127.0.0.1", port, "train", run_yaml) for node in (0, 1)]

    stopped = start()
    stopped[0].wait_for_step(run_dir, 1)
    stopped[1].process.send_signal(signal.SIGTERM)
    assert end_all(stopped) == [STOPPED] * 2, stopped[0].text() + stopped[1].text()
    assert state_of(run_dir) == "stopped"
    again = start()
    assert end_all(again) == [0, 0], again[0].text() + again[1].text()
    assert "2 x cpu, ddp" in again[0].text()
    assert largest_loss_difference(read_losses(run_dir), single_losses) < 1e-5


def test_two_machines_train_by_zero2_as_one_process_does(launch, write_run, single_losses):
    run_yaml, run_dir = write_run("two_machines_zero2")
    port = find_free_port()
    both = [launch("nodes.sh", "zero2", 2, node, 1, "127.0.0.1", port, "train", run_yaml) for node in (0, 1)]
    assert end_all(both) == [0, 0], both[0].text() + both[1].text()
    assert "2 x cpu, zero2" in both[0].text()
    assert largest_loss_difference(read_losses(run_dir), single_losses) < 1e-5


def test_where_machines_share_the_launch_folder_the_code_of_the_rank_that_failed_first_counts(
    launch, write_run, tmp_path
):
    # As under Slurm. The second machine does not have the training rows; the first one only misses the second.
    shared = tmp_path / "shared"
    shared.mkdir()
    good, _ = write_run("good")
    bad, _ = write_run("bad", data={"train": str(tmp_path / "nowhere.csv")}, run={"dir": str(tmp_path / "good")})
    port = find_free_port()
    both = [
        launch("nodes.sh", "ddp", 2, node, 1, "127.0.0.1", port, "train", run_yaml, PREF_DIST_LAUNCH_DIR=str(shared))
        for node, run_yaml in enumerate((good, bad))
    ]
    assert end_all(both) == [3, 3], both[0].text() + both[1].text()


def test_a_machine_whose_partners_do_not_come_gives_up_in_bounded_time(launch, write_run):
    run_yaml, run_dir = write_run("alone")
    alone = [
        launch(
            *("nodes.sh", "ddp", 2, node, 1, "127.0.0.1", find_free_port(), "train", run_yaml),
            PREF_DIST_RENDEZVOUS_SECONDS="4",
        )
        for node in (0, 1)
    ]
    for launched in alone:
        assert launched.end(timeout=60) not in (0, STOPPED)
        assert "within 4 s (PREF_DIST_RENDEZVOUS_SECONDS)" in launched.text()
    assert not run_dir.exists()


def test_ctrl_c_twice_leaves_at_once_where_no_step_will_ever_come(launch, write_run):
    run_yaml, _ = write_run("waiting")
    launched = launch("nodes.sh", "ddp", 2, 0, 1, "127.0.0.1", find_free_port(), "train", run_yaml)
    launched.wait_until(lambda: len(launched.descendants()) > 0)
    for _ in range(2):
        time.sleep(0.5)
        assert launched.process.poll() is None, launched.text()
        launched.process.send_signal(signal.SIGINT)
    assert launched.end(timeout=5) not in (0, STOPPED)


def test_a_verb_that_has_nothing_to_save_ends_at_the_first_signal(launch, tmp_path):
    launched = launch("node.sh", "ddp", 2, "predict", tmp_path, "--data", "x.csv", "--out", "y.csv")
    launched.wait_until(lambda: len(launched.descendants()) > 0)
    time.sleep(0.5)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end(timeout=5) not in (0, STOPPED)


@pytest.mark.parametrize(("backend", "ranks"), [("single", 1), ("ddp", 2), ("zero2", 2), ("fsdp2", 2)])
def test_accelerate_launch_by_hand_needs_nothing_but_its_config_file(launch, write_run, backend, ranks):
    run_yaml, run_dir = write_run(backend, train={"max_steps": 3})
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    config = ["--config_file", f"configs/accelerate/{backend}.yaml", "--main_process_port", find_free_port()]
    launched = launch(*accelerate, *config, "-m", "pref_dist", "train", run_yaml, cwd=REPO_ROOT)
    check_finishes(launched, run_dir)
    assert f"{ranks} x cpu, {backend}" in launched.text()


NODES = ("nodes.sh", "ddp", "2", "0", "1", "127.0.0.1", "29500", "train", "RUN.yaml")


def changed(place: int, value: str) -> tuple[str, ...]:
    return (*NODES[:place], value, *NODES[place + 1 :])


@pytest.mark.parametrize(
    "command",
    [
        ("single.sh",),
        ("node.sh",),
        ("node.sh", "ddp", "2"),
        ("node.sh", "fsdp", "2", "train", "RUN.yaml"),
        ("node.sh", "single", "2", "train", "RUN.yaml"),
        ("node.sh", "ddp", "none", "train", "RUN.yaml"),
        ("node.sh", "ddp", "0", "train", "RUN.yaml"),
        ("node.sh", "ddp", "2", "RUN.yaml"),
        NODES[:-2],
        changed(2, "two"),
        changed(3, "2"),
        changed(4, "0"),
        changed(6, "http"),
        changed(7, "RUN.yaml"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_ends_with_2_and_a_usage_line(launch, command):
    launched = launch(*command)
    assert launched.end(timeout=10) == 2
    assert f"usage: bash launch/{command[0]} " in launched.text()


def ask_supervise(launch, bash: str, **env: str) -> str:
    """What a line of bash prints that has sourced supervise.sh."""
    launched = launch("bash", "-euo", "pipefail", "-c", f'. "{LAUNCH}/supervise.sh"; {bash}', **env)
    assert launched.end(timeout=10) == 0, launched.text()
    return launched.text().strip()


@pytest.mark.parametrize(
    ("codes", "launchers_own", "meant"),
    [
        ({0: 0, 1: 0}, 0, 0),
        ({0: 75, 1: 75}, 0, 75),
        ({0: 75, 1: 75}, 1, 75),  # all have saved, and then torchrun got a TERM
        ({0: 75}, 1, 1),  # one rank was killed while the other saved
        ({1: 3, 0: 1}, 1, 3),  # in the order in which they failed
        ({0: 1, 1: 3}, 1, 1),
        ({0: 75, 1: 1}, 1, 1),
        ({0: 0}, 1, 1),
        ({}, 137, 137),
    ],
)
def test_the_launchers_exit_code_is_that_of_the_rank_that_failed_first(launch, tmp_path, codes, launchers_own, meant):
    folder = tmp_path / "exit_codes"
    folder.mkdir()
    for age, (rank, code) in enumerate(codes.items()):
        path = folder / f"rank_{rank}"
        path.write_text(f"{code}\n", encoding="utf-8")
        os.utime(path, (1e9 + age, 1e9 + age))
    asked = f"meant_exit_code 2 {launchers_own}"
    assert ask_supervise(launch, asked, PREF_DIST_LAUNCH_DIR=str(tmp_path)) == str(meant)


def test_auto_counts_cores_and_not_the_threads_that_a_rank_was_given(launch):
    cores = len(os.sched_getaffinity(0))
    assert ask_supervise(launch, "resolve_ranks auto", OMP_NUM_THREADS="1") == str(min(cores, 4))
    assert ask_supervise(launch, "threads_for 1", OMP_NUM_THREADS="1") == str(cores)
    assert ask_supervise(launch, "resolve_ranks 3") == "3"


def test_auto_counts_the_gpus_that_are_visible(launch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: Pretend (UUID: GPU-$i)"; done\n', encoding="utf-8")
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for visible, expected in (("0,1,2,3", 4), ("2,GPU-3", 2), ("0,1,2,3,4,5,6,7", 4)):
        assert ask_supervise(launch, "num_gpus", PATH=path, CUDA_VISIBLE_DEVICES=visible) == str(expected)
    for visible in ("", "-1"):
        assert ask_supervise(launch, "num_gpus", PATH=path, CUDA_VISIBLE_DEVICES=visible) == "0"
    # Without a driver it says so on stdout, in several lines.
    fake.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\necho 'Make sure that ...'\nexit 9\n", encoding="utf-8")
    assert ask_supervise(launch, "num_gpus", PATH=path, CUDA_VISIBLE_DEVICES="0") == "0"
