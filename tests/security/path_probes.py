"""What is written, deleted and copied stays in its folder, whatever names, rows and planted links say."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pandas as pd

import pref_dist
from pref_dist.config.load import load_config
from pref_dist.errors import PrefDistError
from pref_dist.evaluate.run import EvaluateOptions, stem_of
from pref_dist.files import describe_file, write_bytes
from pref_dist.inspection.page import find_page
from pref_dist.models.source import find_model_folder
from pref_dist.models.starting_weights import read_tensors
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import open_checkpoint, remove_leftovers
from pref_dist.runtime.log import MetricsLog
from pref_dist.submission import write_submission
from pref_dist.train.folds import remove_others
from pref_dist.train.resume import remove_run
from pref_dist.train.run import train
from tests.security.place import Place, refusal

PRECIOUS = "what must stay as it is"


def write_precious(place: Place) -> Path:
    path = place.folder / "precious.txt"
    path.write_text(PRECIOUS)
    return path


def write_rows(place: Place, name: str, **changes: object) -> Path:
    """Write a labelled file with the sample's rows."""
    path = place.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(place.sample / "test_labels.csv", dtype=str)[:12]
    table.assign(**changes).to_csv(path, index=False)
    return path


def names_of_data_that_climb(place: Place) -> None:
    names = ("..", "...csv", "..csv", ".csv", ". .csv", "a/../..csv", "..\\..\\x.csv", "....parquet", ".parts.csv")
    for name in names:
        stem = stem_of(Path(name))
        folder = (RunDir(Path("run")).evaluations / stem).resolve()
        assert folder.parent == Path("run/evaluations").resolve(), (name, stem)
        assert not stem.startswith("."), (name, stem)


def an_evaluation_of_a_file_that_climbs(place: Place) -> None:
    run = place.copy_run()
    before = (run / "valid_logits.parquet").read_bytes()
    data = write_rows(place, "data/...csv")
    result = pref_dist.evaluate_run(run, EvaluateOptions(data, baselines=False))
    assert result.folder.resolve().parent == (run / "evaluations").resolve()
    assert (run / "valid_logits.parquet").read_bytes() == before
    assert not (run / "logits.parquet").exists()


def ids_that_look_like_paths(place: Place) -> None:
    """Row ids name rows, never files."""
    ids = ["../../climbed", "/climbed", "a/b", "..", "x\x00y".replace("\x00", ""), *(f"r{n}" for n in range(7))]
    data = write_rows(place, "ids.csv", id=ids)
    out = place.folder / "out" / "submission.csv"
    pref_dist.predict_rows(place.run, data, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["submission.csv"]
    assert pd.read_csv(out)["id"].tolist() == ids
    assert not (place.folder / "climbed").exists()


def a_page_named_after_a_climbing_file(place: Place) -> None:
    for name in ("../../x.csv", "...csv", "..", "a/../../b*.csv", "\\..\\x.csv"):
        assert find_page(Path(name), place.folder).parent == place.folder


def a_model_in_a_package_that_climbs(place: Place) -> None:
    for inside in ("../" * 30 + str(place.model).lstrip("/"), str(place.model), f"/{place.model}"):
        assert "no model folder" in refusal(lambda inside=inside: find_model_folder(f"package:pref_dist/{inside}"))


def an_index_of_weights_that_climbs(place: Place) -> None:
    """A folder's index names a weight file of somebody else."""
    folder = place.copy_model()
    elsewhere = place.folder / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    for name in ("../elsewhere.safetensors", str(elsewhere)):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        assert "outside" in refusal(lambda: read_tensors(folder))


def a_manifest_that_climbs(place: Place) -> None:
    """A checkpoint names a file outside its folder as its own."""
    folder = next((place.copy_run() / "checkpoints").glob("step_*"))
    precious = write_precious(place)
    for name in (f"../../../{precious.name}", str(precious), "model-../../x"):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = describe_file(precious)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert "outside" in refusal(lambda: open_checkpoint(folder))


def links_in_place_of_files_of_a_run(place: Place) -> None:
    """Each file that a training writes is a link to something precious: none of them is written through."""
    run = place.copy_run()
    names = ("metrics.jsonl", "state.json", "starts.json", "config.yaml", "metrics.json", "best.json",
             "valid_logits.parquet", "trained_rows.parquet", "rows_set_aside.jsonl", "findings.json", "truncation.json",
             "model/config.json", "model/tokenizer.json", "report.html")  # fmt: skip
    victims = {}
    for name in names:
        victims[name] = place.folder / "victims" / name.replace("/", "_")
        victims[name].parent.mkdir(exist_ok=True)
        source = run / name
        victims[name].write_bytes(source.read_bytes() if source.is_file() else PRECIOUS.encode())
        source.unlink(missing_ok=True)
        source.symlink_to(victims[name])
    before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in victims.items()}
    train(load_config(place.write_config(train={"max_steps": 3})), pref_dist.TrainOptions(accept_changes=True))
    pref_dist.write_report(run)
    after = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in victims.items()}
    assert [name for name in names if after[name] != before[name]] == []


def a_link_in_place_of_the_newest_metrics(place: Place) -> None:
    run, precious = place.copy_run(), write_precious(place)
    (run / "metrics.json").unlink()
    (run / "metrics.json").symlink_to(precious)
    pref_dist.evaluate_run(run, EvaluateOptions(write_rows(place, "x.csv"), baselines=False))
    assert precious.read_text() == PRECIOUS


def a_dangling_link_in_place_of_the_log(place: Place) -> None:
    target = place.folder / "made"
    (place.folder / "metrics.jsonl").symlink_to(target)
    log = MetricsLog(place.folder / "metrics.jsonl", is_main=True)
    log.append({"step": 1})
    assert log.has_failed
    assert not target.exists()


def a_link_in_place_of_the_lock(place: Place) -> None:
    run, precious = place.copy_run(), write_precious(place)
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").symlink_to(precious)
    with suppress(OSError, PrefDistError):
        train(load_config(place.write_config(train={"max_steps": 3})), pref_dist.TrainOptions(accept_changes=True))
    assert precious.read_text() == PRECIOUS


def a_link_in_place_of_a_temporary_file(place: Place) -> None:
    precious = write_precious(place)
    (place.folder / f".out.json.{os.getpid()}.tmp").symlink_to(precious)
    (place.folder / f".sub.csv.{os.getpid()}.tmp").symlink_to(precious)
    write_bytes(place.folder / "out.json", b"new")
    write_submission(place.folder / "sub.csv", ["1"], pd.DataFrame([[0.2, 0.3, 0.5]]).to_numpy())
    assert precious.read_text() == PRECIOUS
    assert not (place.folder / "out.json").is_symlink()


def a_link_in_place_of_an_output(place: Place) -> None:
    precious = write_precious(place)
    (place.folder / "submission.csv").symlink_to(precious)
    pref_dist.predict_rows(place.run, write_rows(place, "x.csv"), place.folder / "submission.csv")
    assert precious.read_text() == PRECIOUS


def make_other_run(place: Place) -> Path:
    return Path(shutil.copytree(place.run, place.folder / "other"))


def a_fold_that_is_a_link_to_another_run(place: Place) -> None:
    other, root = make_other_run(place), RunDir(place.folder / "folds")
    root.root.mkdir()
    (root.root / "fold_7").symlink_to(other)
    (root.root / "fold_0").symlink_to(other)
    remove_others(root, keep=0)
    assert (root.root / "fold_0").is_symlink(), "a fold of this run may lie on another disk"
    assert (other / "checkpoints").is_dir()
    assert (other / "config.yaml").is_file()


def folders_of_a_run_that_are_links_to_another(place: Place) -> None:
    other, run = make_other_run(place), RunDir(place.copy_run())
    shutil.rmtree(run.checkpoints)
    run.checkpoints.symlink_to(other / "checkpoints")
    assert "may be another run's" in refusal(lambda: remove_run(run))
    assert list((other / "checkpoints").glob("step_*"))


def an_unfinished_checkpoint_that_is_a_link(place: Place) -> None:
    other, run = make_other_run(place), RunDir(place.copy_run())
    (run.checkpoints / "step_000099.tmp").symlink_to(other)
    remove_leftovers(run.checkpoints)
    assert (other / "config.yaml").is_file()
    assert not (run.checkpoints / "step_000099.tmp").is_symlink()


def an_export_over_something(place: Place) -> None:
    (place.folder / "full").mkdir()
    precious = place.folder / "full" / "x"
    precious.write_text(PRECIOUS)
    assert "not empty" in refusal(lambda: pref_dist.export_run(place.run, place.folder / "full"))
    assert precious.read_text() == PRECIOUS
