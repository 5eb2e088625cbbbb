"""configs/accelerate: each file really starts what its name says, by hand and without a GPU."""

import json
import sys
from pathlib import Path

import pytest

from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded, find_free_port, run_launcher

pytestmark = pytest.mark.ranks
CONFIGS = REPO_ROOT / "configs/accelerate"
SCRIPT = Path(__file__).parent / "accelerate_ranks.py"
# Of the ZeRO files two are launched: a test below shows that the others are the same. A launch takes seconds.
ZERO = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
WORLD_SIZES = {"single": 1, "ddp": 2, "fsdp2": 2} | dict.fromkeys(ZERO, 2)


def test_there_is_one_config_for_each_backend() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(WORLD_SIZES)


@pytest.mark.parametrize("backend", ZERO)
def test_the_zero_configs_differ_in_their_deepspeed_file_alone(backend: str) -> None:
    lines = (CONFIGS / f"{backend}.yaml").read_text()
    assert lines == (CONFIGS / "zero2.yaml").read_text().replace("zero2.json", f"{backend}.json")


@pytest.mark.parametrize("backend", ["single", "ddp", "zero2", "zero3_offload", "fsdp2"])
def test_accelerate_launch_starts_the_backend_that_the_file_is_named_after(backend: str, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"configs/accelerate/{backend}.yaml"]
    port = ["--main_process_port", str(find_free_port())]
    result = run_launcher([*launch, *port, str(SCRIPT), "--out", str(tmp_path)], timeout=280)
    check_ranks_succeeded([result])
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank_*.json"))]
    assert [rank["backend"] for rank in found] == [backend] * WORLD_SIZES[backend]
    assert {rank["world_size"] for rank in found} == {WORLD_SIZES[backend]}
    assert len({(rank["grad_norm"], rank["square_norm"]) for rank in found}) == 1
