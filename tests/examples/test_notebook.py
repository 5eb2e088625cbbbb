"""examples/second_seed.ipynb runs as it stands, in another folder, and a script of one's own goes on from its run."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from pref_dist.config.load import load_config

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "second_seed.ipynb"
# The table of the notebook that it follows.
COLUMNS = [
    "Step", "Training Loss", "Validation Loss", "Accuracy", "Log Loss", "Runtime", "Samples Per Second",
    "Steps Per Second",
]  # fmt: skip

# Runs the code cells one after another in one namespace, the second argument after the cell of parameters, and then
# what a plain script would do, with texts as paths.
PROGRAM = """
import json, sys
from pathlib import Path
import pref_dist
assert not {"torch", "numpy", "click"} & set(sys.modules), "import pref_dist must be quick"
pref_dist.write_sample("data", num_train=300, num_test=60)  # what the notebook would write, but fewer rows
names = {}
for cell in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    if "parameters" in cell["metadata"].get("tags", []):
        exec(sys.argv[2], names)

exported = pref_dist.export_run("runs/second_seed", "exported")
model = pref_dist.load("exported")
scored = pref_dist.evaluate_run("runs/second_seed", pref_dist.EvaluateOptions("data/test_labels.csv", baselines=False))
again = pref_dist.train_run(names["config"])
errors = []
for work in (lambda: pref_dist.load_config(None, {"train.epoch": 2}), lambda: pref_dist.predict_rows([], "a", "b")):
    try:
        work()
    except pref_dist.PrefDistError as error:
        errors.append(str(error))
found = {
    "table": names["metrics_table"].to_dict("list"), "chances": model.predict(names["df_test"]).tolist(),
    "num_rows": scored.metrics["num_rows"], "again": [again.state, again.step], "errors": errors,
    "pages": [str(Path("inspection.html").is_file()), str(Path("runs/second_seed/report.html").is_file())],
}
Path("found.json").write_text(json.dumps(found))
"""


def read_cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def source_of(name):
    return next("".join(cell["source"]) for cell in read_cells() if cell["id"] == name)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, cache_dir):
    """The notebook on its own sample, cut short by CHANGES, with a tiny model."""
    folder = tmp_path_factory.mktemp("elsewhere")
    changes = {"data.cache_dir": str(cache_dir), "data.num_workers": 0, "train.max_steps": 6, "evaluate.every_steps": 2}
    parameters = f"MODEL, CHANGES = {str(tiny_model)!r}, {changes!r}"
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, NOTEBOOK, parameters], cwd=folder, env=environment, timeout=250,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return SimpleNamespace(folder=folder, said=done.stdout, **json.loads((folder / "found.json").read_text()))


def test_the_notebook_makes_the_seeds_table_from_its_run(world):
    assert list(world.table) == COLUMNS
    assert world.table["Step"] == [2, 4, 6]
    assert all(
        math.isfinite(value) and value > 0 for name in COLUMNS if name != "Accuracy" for value in world.table[name]
    )
    assert world.pages == ["True", "True"]


def test_the_notebook_writes_a_submission_in_the_order_of_the_test_set(world):
    submission, test = pd.read_csv(world.folder / "submission.csv"), pd.read_csv(world.folder / "data" / "test.csv")
    assert submission["id"].tolist() == test["id"].tolist()
    assert f"{len(test):,} rows" in world.said


def test_a_script_goes_on_from_the_run_with_texts_as_paths(world):
    submission = pd.read_csv(world.folder / "submission.csv")
    assert world.chances == pytest.approx(submission.iloc[:, 1:].to_numpy(), abs=1e-6)
    assert world.num_rows == len(submission)
    assert world.again == ["finished", 6]
    assert "did you mean 'epochs'?" in world.errors[0]
    assert "Name one or several run folders" in world.errors[1]


def test_the_notebook_has_the_settings_of_the_recipe():
    names: dict = {"RUN": "r", "TRAIN": "t", "TEST": None, "MODEL": "distilbert-base-uncased", "CHANGES": {}}
    names["pref_dist"] = SimpleNamespace(load_config=load_config)
    exec(source_of("settings"), names)
    recipe = load_config(ROOT / "configs" / "seed_distilbert_joint.yaml", ["run.dir=r", "data.train=t"])
    own = names["config"].model_dump()
    assert own["train"].pop("precision") == "auto"  # fp16 on a T4, and it runs on a CPU, too
    wanted = recipe.model_dump()
    wanted["train"].pop("precision")
    assert own == wanted


def test_the_notebook_is_committed_without_what_a_run_left():
    for cell in read_cells():
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")
    paths = [
        cell["id"] for cell in read_cells() if cell["cell_type"] == "code" and "/kaggle" in "".join(cell["source"])
    ]
    assert paths == ["parameters"]
