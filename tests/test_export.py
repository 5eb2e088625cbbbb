"""`pref-dist export`: a folder that stands by itself, and says what it is."""

import json
import shutil
import stat
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pref_dist
from pref_dist.data.leaks import TrainedRows
from pref_dist.errors import CheckpointError, ConfigError, ParallelError
from pref_dist.export import export, write_weights
from pref_dist.files import write_json
from pref_dist.model_card import render_scores
from pref_dist.models.build import build_model
from pref_dist.run_dir import RunDir
from tests.exported_kinds import infer_file
from tests.models.test_weights import settings_of
from tests.ranks.many_runs import run_jobs
from tests.tiny_runs import TinyRuns


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A finished run of the default kind, whose best step is not its last one's name by chance."""
    folder = tmp_path_factory.mktemp("exporting")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    train = {"max_steps": 4, "save_every_steps": 2, "keep_last": 5, "learning_rate": 5e-3}
    run_yaml, run_dir = runs.write("first", train=train, evaluate={"every_steps": 2})
    run_jobs("single", 1, [{"config": str(run_yaml)}], folder)
    return run_dir


@pytest.fixture(scope="module")
def out(run_dir):
    return export(run_dir, run_dir.parent / "out").out


def read_card(out):
    _, header, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def test_transformers_alone_gives_the_runs_logits(run_dir, out, sample_dir):
    theirs = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert theirs.config.id2label == {0: "A", 1: "B", 2: "tie"}
    ours = pref_dist.load(out)
    rows = pd.read_csv(sample_dir / "test.csv")[:8]
    ids = []
    ours.module.register_forward_pre_hook(lambda _, args, inputs: ids.append(inputs), with_kwargs=True)
    ours.logits(rows)
    with torch.no_grad():
        torch.testing.assert_close(theirs(**ids[0]).logits, ours.module(**ids[0]).logits, rtol=0, atol=1e-6)
    assert len(AutoTokenizer.from_pretrained(out)) == theirs.config.vocab_size


def test_the_folder_holds_what_a_hub_model_holds_and_others_may_read_it(out):
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "pref_dist.json", "tokenizer.json", "tokenizer_config.json",
        "trained_rows.parquet",
    }  # fmt: skip
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}
    assert len(modes) == 1
    assert modes.pop() & stat.S_IRUSR


def test_the_recipe_says_how_text_becomes_tokens_and_what_the_classes_are(run_dir, out):
    recipe = json.loads((out / "pref_dist.json").read_text())
    assert recipe["format_version"] == 2
    assert recipe["pref_dist"] == pref_dist.__version__
    assert recipe["classes"] == ["A", "B", "tie"]
    assert recipe["precision"] == "fp32"
    assert recipe["data"] == {
        "format": "auto", "template": "joint", "clean": "none", "max_tokens": 96, "truncation": "fair",
        "bad_rows": "set_aside", "checks": {},
    }  # fmt: skip
    assert recipe["evaluate"] == {
        "swap": "none", "swap_share": 0.3, "calibrate": "none", "token_budget": 800
    }  # fmt: skip
    assert sum(recipe["class_shares"]) == pytest.approx(1.0)
    assert (recipe["model"]["kind"], recipe["model"]["pooling"], recipe["model"]["head"]) == ("joint", "cls", "default")
    assert recipe["step"] == json.loads((run_dir / "best.json").read_text())["step"]


def test_the_card_has_the_hubs_header_the_scores_the_digests_and_the_settings(run_dir, out):
    header, text = read_card(out)
    assert header["pipeline_tag"] == "text-classification"
    assert header["library_name"] == "transformers"
    best = json.loads((run_dir / "best.json").read_text())
    assert f"| best evaluation in training (held-out rows) | {best['log_loss']:.4f} |" in text
    progress = json.loads(next((run_dir / "checkpoints").glob("step_*/progress.json")).read_text())
    assert all(digest in text for digest in (*progress["identity"]["tables"], progress["identity"]["tokenizer"]))
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["train"]["learning_rate"] == 5e-3
    assert settings["data"]["train"] == "train.csv"


def test_the_card_names_the_rows_of_the_newest_evaluation(tmp_path):
    run_dir, scores = RunDir(tmp_path), {"log_loss": 1.0241, "accuracy": 0.5, "num_rows": 418, "step": 27}
    write_json(run_dir.metrics, scores)
    assert "| newest evaluation (held-out rows) | 1.0241 | 0.500 | 418 | 27 |" in render_scores(run_dir)
    for name in ("a|b", "other"):
        write_json(
            run_dir.evaluations / name / "metrics.json", scores | {"log_loss": 2.0 if name == "other" else 1.0241}
        )
    assert "| newest evaluation (a\\|b) | 1.0241 | 0.500 | 418 | 27 |" in render_scores(run_dir)


def test_no_path_of_the_machine_stands_in_an_export(run_dir, out, sample_dir, tiny_model, cache_dir):
    for path in out.iterdir():
        content = path.read_bytes()
        for folder in (run_dir.parent, sample_dir, tiny_model, cache_dir):
            assert str(folder).encode() not in content, path
            assert str(folder.parent).encode() not in content, path


def test_the_code_in_the_card_runs(out, tmp_path):
    code = [part.split("```")[0] for part in read_card(out)[1].split("```python\n")[1:]]
    assert len(code) == 2
    program = "\n".join(code).replace("FOLDER", str(out))
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)


def test_a_step_may_be_chosen_and_an_unfinished_run_needs_one(run_dir, tmp_path):
    assert export(run_dir, tmp_path / "two", "2").step == 2
    assert export(run_dir, tmp_path / "last", "last").step == 4
    with pytest.raises(CheckpointError, match="step_000003 does not exist"):
        export(run_dir, tmp_path / "three", "3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "two"]


def test_a_folder_with_files_in_it_is_left_alone(run_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"is not empty \(1 files in it, first: mine\.txt\)"):
        export(run_dir, tmp_path)
    with pytest.raises(ConfigError, match=r"is a file"):
        export(run_dir, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert export(run_dir, tmp_path / "empty").out.is_dir()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("model/tokenizer.json", "[MASK]", "[MUSK]", "is not the one that"),
        ("metrics.json", "{", "[", "metrics.json cannot be read"),  # for the card, when the weights are written
    ],
)
def test_an_export_that_fails_leaves_nothing(run_dir, tmp_path, name, old, new, message):
    broken = tmp_path / "run"
    shutil.copytree(run_dir, broken)
    (broken / name).write_text((broken / name).read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        export(broken, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_several_ranks_are_refused(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ParallelError, match=r"one process, and this is one of 2.*single\.sh export"):
        export(run_dir, tmp_path / "out")


def test_large_weights_become_several_files(tiny_model, tmp_path):
    for kind in ({}, {"pooling": "segments"}):
        folder = tmp_path / (kind.get("pooling") or "cls")
        folder.mkdir()
        module = build_model(settings_of(tiny_model, **kind).model, tiny_model, 96, 400, seed=1).module
        write_weights(folder, module, max_bytes=50_000)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        assert (folder / "model.safetensors.index.json").is_file()


def test_the_verb_prints_json_and_an_export_serves_as_model_name(run_dir, tmp_path, sample_dir, write_run):
    command = [sys.executable, "-m", "pref_dist", "export", run_dir, tmp_path / "out", "--json"]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert printed["loads_with"] == "transformers.AutoModelForSequenceClassification"
    assert printed["step"] == json.loads((run_dir / "best.json").read_text())["step"]
    assert "config.json" in printed["files"]
    # A rate of almost nothing: after a step it still gives the logits that it started with.
    train = {"max_steps": 1, "learning_rate": 1e-12}
    run_yaml, second = write_run("second", model={"name": printed["out"]}, train=train)
    run_jobs("single", 1, [{"config": str(run_yaml)}], tmp_path)
    test = sample_dir / "test.csv"
    assert abs(infer_file(second, test) - infer_file(run_dir, test)).max() < 1e-6
    assert not (second / "model" / "pref_dist.json").exists()
    # Rows that the first run has learnt from are known to the second, wherever it got the weights from.
    trained = TrainedRows.read(run_dir / "trained_rows.parquet")
    assert TrainedRows.read(second / "trained_rows.parquet").were_seen(trained.groups, trained.pairs).all()
