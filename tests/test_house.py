"""The house: no function is long, and nothing stands in it that nobody uses."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "pref_dist").rglob("*.py"))
LONGEST_FUNCTION = 60  # lines
# What libraries call by name: a DeBERTa encoder's own methods, which ours take the place of, and Trainer's callbacks.
CALLED_BY_LIBRARIES = {"get_attention_mask", "get_rel_pos", "on_train_begin", "on_step_end"}


def definitions(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]


def is_registered(node):
    """Whether a decorator hands it to click or pydantic."""
    return any("command" in text or "validator" in text for text in map(ast.unparse, node.decorator_list))


def test_no_function_is_longer_than_60_lines():
    found = [
        f"{path.relative_to(ROOT)}: {node.name}" for path in FILES for node in definitions(path)
        if not isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]  # fmt: skip
    assert found == []


def test_every_function_and_class_is_used_outside_tests():
    others = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "slurm").iterdir(), *(ROOT / "pref_dist").rglob("*.jinja")]
    words = Counter(word for path in [*FILES, *others] for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
    unused = [
        f"{path.relative_to(ROOT)}: {node.name}" for path in FILES for node in definitions(path)
        if words[node.name] == 1 and node.name not in CALLED_BY_LIBRARIES and not is_registered(node)
        and not node.name.startswith("__")
    ]  # fmt: skip
    assert unused == []
