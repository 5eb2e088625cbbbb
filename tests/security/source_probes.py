"""What no line of the package may do, looked for in its syntax."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.security.place import ROOT, Place

FILES = sorted((ROOT / "pref_dist").rglob("*.py"))
# Their whole purpose is to run what is in a text or a stream of bytes.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open",
    "joblib.load", "dill.loads", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pandas.read_pickle",
    "pd.read_pickle", "tempfile.mktemp",
}  # fmt: skip


def iterate_calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Yield (file, call, the called name with its dots) of the whole package."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def say(path: Path, call: ast.Call) -> str:
    return f"{path.relative_to(ROOT)}:{call.lineno}"


def calls_that_run_texts_or_load_pickles(place: Place) -> None:
    assert [say(path, call) for path, call, name in iterate_calls() if name in FORBIDDEN] == []


def subprocesses_with_a_shell(place: Place) -> None:
    assert [
        say(path, call) for path, call, _ in iterate_calls() if keywords(call).get("shell", "False") != "False"
    ] == []


def torch_load_without_weights_only(place: Place) -> None:
    loads = [(path, call) for path, call, name in iterate_calls() if name in ("torch.load", "torch.jit.load")]
    assert [say(path, call) for path, call in loads if keywords(call).get("weights_only") != "True"] == []


def numpy_load_with_pickles(place: Place) -> None:
    assert [say(path, call) for path, call, _ in iterate_calls() if keywords(call).get("allow_pickle") == "True"] == []


def yaml_load_with_another_loader(place: Place) -> None:
    loads = [(path, call) for path, call, name in iterate_calls() if name == "yaml.load"]
    assert len(loads) >= 2
    assert [say(path, call) for path, call in loads if keywords(call).get("Loader") != "StrictLoader"] == []


def models_opened_without_forbidding_their_code(place: Place) -> None:
    """Left to itself transformers asks whoever sits at the terminal."""
    opened = [
        (path, call) for path, call, name in iterate_calls()
        if name.rpartition(".")[2] in ("from_pretrained", "from_config")
    ]  # fmt: skip
    assert len(opened) >= 8
    assert [say(path, call) for path, call in opened if keywords(call).get("trust_remote_code") != "False"] == []


def templates_without_escaping(place: Place) -> None:
    made = [(path, call) for path, call, name in iterate_calls() if name.endswith("jinja2.Environment")]
    assert made
    assert [say(path, call) for path, call in made if keywords(call).get("autoescape") != "True"] == []
    pages = [path for path in (ROOT / "pref_dist").rglob("*.jinja") if "| safe" in path.read_text(encoding="utf-8")]
    assert [path.name for path in pages] == []


def temporary_files_in_a_shared_folder(place: Place) -> None:
    """Only by `tempfile`, which lets nobody else in; never by a name in /tmp."""
    texts = [
        (path, node) for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]  # fmt: skip
    assert [str(path) for path, node in texts if node.value.startswith(("/tmp", "/var/tmp"))] == []
    scripts = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "slurm").glob("*.sh")]
    assert [path.name for path in scripts if "/tmp/" in path.read_text(encoding="utf-8")] == []
