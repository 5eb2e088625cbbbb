"""The house: a module imports only from its own floor or lower ones, and heavy libraries stay where they belong."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pref_dist"

# Top-level names inside pref_dist -> floor.
FLOORS = {
    "errors": 0, "files": 0, "labels": 0, "run_dir": 0, "findings": 0, "config": 0,
    "data": 1, "models": 1, "losses": 1, "optim": 1, "metrics": 1,
    "bootstrap": 1, "class_metrics": 1, "cross_fit": 1, "ranking": 1, "reliability": 1, "temperature": 1, "wilson": 1,
    "runtime": 2,
    "train": 3, "evaluate": 3, "predict": 3, "submission": 3, "blend": 3, "report": 3, "inspection": 3, "doctor": 3,
    "cluster": 3, "bench": 3, "export": 3, "model_card": 3, "loaded_model": 3,
    "cli": 4, "__main__": 4, "__init__": 4,  # where `pref_dist.load` is
}  # fmt: skip
DISTRIBUTED = ("accelerate", "deepspeed", "torch.distributed")
FORBIDDEN_NAMES = ("utils", "common", "helpers", "misc", "base", "manager")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(module_parts(path)))
def test_a_room_imports_only_from_its_floor_or_lower_ones(path):
    floor = FLOORS[module_parts(path)[0]]
    for name in imported_names(path):
        if name.startswith("pref_dist."):
            assert FLOORS.get(name.split(".")[1], 0) <= floor, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(module_parts(path)))
def test_only_runtime_knows_how_ranks_talk(path):
    if module_parts(path)[0] == "runtime":
        return
    for name in imported_names(path):
        assert not name.startswith(DISTRIBUTED), f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if FLOORS[module_parts(path)[0]] == 0], ids=str)
def test_the_ground_floor_does_not_know_torch(path):
    assert not [name for name in imported_names(path) if name.split(".")[0] in {"torch", "transformers", "numpy"}]


@pytest.mark.parametrize("path", [path for path in FILES if module_parts(path)[0] == "data"], ids=str)
def test_data_needs_torch_only_for_batches(path):
    if path.name != "batches.py":
        assert "torch" not in {name.split(".")[0] for name in imported_names(path)}


def test_every_file_says_one_thing_and_no_name_says_nothing():
    assert {module_parts(path)[0] for path in FILES} <= set(FLOORS)
    assert not [path for path in FILES if path.stem in FORBIDDEN_NAMES]


def test_no_file_is_longer_than_300_lines():
    assert not [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 300]
