"""Several stages: `model.name: RUN_DIR` starts from another run's best checkpoint, which may be gone afterwards."""

import json
import shutil

import numpy as np
import pytest
import yaml

from pref_dist.config.load import load_config
from pref_dist.errors import CheckpointError, ConfigError, ModelError
from pref_dist.files import write_json
from pref_dist.models.source import find_model_folder
from pref_dist.run_dir import RunDir
from pref_dist.train.assemble import TrainOptions
from pref_dist.train.run import train
from pref_dist.train.stages import find_start_folder
from tests.exported_kinds import infer_file
from tests.ranks.many_runs import leave_as_killed, run_jobs
from tests.ranks.run_verb import read_losses, read_weights
from tests.tiny_runs import TinyRuns

FIRST = {"max_steps": 4, "save_every_steps": 2, "learning_rate": 5e-3, "keep_last": 5}
# After a step of such a rate the weights are still those of the start.
SECOND = {"max_steps": 2, "save_every_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "keep_last": 5}
MEAN, SIAMESE, BERT_CLS = {"pooling": "mean"}, {"kind": "siamese"}, {}
STAGES = {  # name: parts of the first stage, of the second
    "cls_cls": (BERT_CLS, BERT_CLS),
    "mean_mean": (MEAN, MEAN),
    "siamese_siamese": (SIAMESE, SIAMESE),
    "cls_siamese": (BERT_CLS, SIAMESE),
    "siamese_mean": (SIAMESE, MEAN),
    "mean_cls": (MEAN, BERT_CLS),
    "mean_new_head": (MEAN, {**MEAN, "new_head": True}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    return TinyRuns(tmp_path_factory.mktemp("stages"), sample_dir / "train.csv", tiny_model, cache_dir)


@pytest.fixture(scope="module")
def stages(runs):
    """All second stages, and those that go on without their first one, which is gone by then."""
    jobs, found, firsts = [], {}, {}
    for name, parts in [("cls", BERT_CLS), ("mean", MEAN), ("siamese", SIAMESE)]:
        run_yaml, firsts[name] = runs.write(name, train=FIRST, model=parts, evaluate={"every_steps": 2})
        jobs.append({"config": str(run_yaml)})
    for name, (_, parts) in STAGES.items():
        model = {**parts, "name": str(firsts[name.split("_")[0]])}
        run_yaml, found[name] = runs.write(name, train=SECOND, model=model)
        jobs.append({"config": str(run_yaml)})
    run_jobs("single", 1, jobs, runs.folder)
    return found, firsts


def start(run_yaml, *overrides):
    """Train in this process, which saves the start of another."""
    return train(load_config(run_yaml, overrides), TrainOptions(show_step=lambda record: None))


def best_weights(run_dir):
    return read_weights(run_dir, json.loads((run_dir / "best.json").read_text())["step"])


def is_encoder(name):
    return name.startswith("bert.") and "pooler" not in name


@pytest.mark.parametrize("name", STAGES)
def test_a_second_stage_starts_from_the_best_weights_of_the_first(stages, name):
    found, firsts = stages
    before, after = best_weights(firsts[name.split("_")[0]]), read_weights(found[name], 1)
    first, second = STAGES[name]
    kept = [key for key in after if is_encoder(key) or (first == second and key in before)]
    assert max(float(np.abs(before[key] - after[key]).max()) for key in kept) < 1e-9
    changed = [key for key in after if key not in before or not np.allclose(before[key], after[key], atol=1e-9)]
    assert bool(changed) == (first != second), "the head comes along where it is of the same kind"


def test_the_start_is_said_in_a_line(stages, capsys):
    found, firsts = stages
    step = json.loads((firsts["mean"] / "best.json").read_text())["step"]
    again = str(found["mean_cls"]) + "_again"
    start(found["mean_cls"].with_suffix(".yaml"), f"run.dir={again}", "train.max_steps=1")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("start"))
    assert f"the encoder of {firsts['mean']}, step {step} (kind joint, pooling mean, head default)" in line
    assert "with a new head (now kind joint, pooling cls, head default)" in line


def test_a_second_stage_needs_nothing_of_the_first_once_it_has_begun(runs, stages, sample_dir):
    found, firsts = stages
    names = ("cls_cls", "siamese_mean")
    for name in names:
        half, whole = runs.folder / f"half_{name}", found[name]
        leave_as_killed(whole, half, 1)
        values = yaml.safe_load(whole.with_suffix(".yaml").read_text())
        values["run"]["dir"] = str(half)
        half.with_suffix(".yaml").write_text(yaml.safe_dump(values))
        saved = yaml.safe_load((half / "config.yaml").read_text())
        saved["run"]["dir"] = str(half)
        (half / "config.yaml").write_text(yaml.safe_dump(saved))
    hidden = {path: path.with_name(f"{path.name}_hidden") for path in firsts.values()}
    for path, other in hidden.items():
        path.rename(other)
    try:
        for name in names:
            assert start(runs.folder / f"half_{name}.yaml").state == "finished"
        assert len(infer_file(found["cls_cls"], sample_dir / "test.csv")) == 60
    finally:
        for path, other in hidden.items():
            other.rename(path)
    for name in names:
        one, other = read_weights(found[name], 2), read_weights(runs.folder / f"half_{name}", 2)
        assert all(np.array_equal(one[key], other[key]) for key in one)
        assert read_losses(found[name]) == read_losses(runs.folder / f"half_{name}")


def test_an_unfinished_run_gives_its_best_checkpoint_and_one_without_is_refused(stages, tmp_path):
    _, firsts = stages
    run_dir = RunDir(tmp_path / "first")
    shutil.copytree(firsts["cls"], run_dir.root)
    write_json(run_dir.state, {"state": "failed", "step": 3, "reason": ""})
    assert find_model_folder(str(run_dir.root)) == run_dir.model_files
    run_dir.best.unlink()
    with pytest.raises(ModelError, match=r"no best checkpoint yet.*--checkpoint last"):
        find_model_folder(str(run_dir.root))


def test_a_folder_of_folds_names_the_remedy(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ModelError, match="fold_0"):
        find_model_folder(str(tmp_path))


def test_a_run_that_would_start_from_itself_or_from_adapters_is_refused(stages, write_run):
    _, firsts = stages
    name = str(firsts["cls"])
    with pytest.raises(ConfigError, match=r"the run's own folder.*another run\.dir"):
        find_start_folder(load_config(write_run("own", model={"name": name}, run={"dir": name})[0]), None)
    with pytest.raises(ConfigError, match=r"Export it first \(pref-dist export .* OUT\) and set model\.name=OUT"):
        find_start_folder(load_config(write_run("lora", model={"name": name, "lora": {"rank": 2}})[0]), None)


def test_damaged_weights_of_the_first_stage_are_refused(stages, write_run, tmp_path):
    damaged = shutil.copytree(stages[1]["cls"], tmp_path / "damaged")
    for path in damaged.glob("checkpoints/step_*/model-00000.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.name=.*its size or sha256 differs"):
        start(write_run("second", model={"name": str(damaged)})[0])
