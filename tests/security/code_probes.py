"""Code that comes with a model, a checkpoint or a config must never run."""

import io
import json
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import pref_dist
from pref_dist.cli.program import program
from pref_dist.config.load import load_config
from pref_dist.data.chat import read_chat_texts
from pref_dist.data.encode import load_tokenizer
from pref_dist.errors import PrefDistError
from pref_dist.models.build import build_model
from pref_dist.models.source import find_model_folder
from tests.security.place import Place, refusal, run_program


class Payload:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, witness: Path) -> None:
        self._witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self._witness,)


def build(place: Place, folder: Path, **settings: object) -> None:
    config = load_config(
        None, {"model.name": str(folder), **{f"model.{key}": value for key, value in settings.items()}}
    )
    build_model(config.model, find_model_folder(str(folder)), 96, 100, 0)


def plant_weights(place: Place, name: str) -> Path:
    folder = place.copy_model()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": Payload(place.witness)}))
    return folder


def pickled_weights_in_a_bin_file(place: Place) -> None:
    folder = plant_weights(place, "pytorch_model.bin")
    assert "pickles alone" in refusal(lambda: build(place, folder))
    place.assert_did_not_run()


def pickled_weights_in_a_pt_file(place: Place) -> None:
    folder = plant_weights(place, "model.pt")
    assert "pickles alone" in refusal(lambda: build(place, folder))
    place.assert_did_not_run()


def a_pickle_that_calls_itself_safetensors(place: Place) -> None:
    folder = place.copy_model()
    torch.save(Payload(place.witness), folder / "model.safetensors")
    assert "damaged" in refusal(lambda: build(place, folder))
    place.assert_did_not_run()


def a_pickle_beside_good_weights(place: Place) -> None:
    folder = place.copy_model()
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save(Payload(place.witness), folder / name)
    build(place, folder)
    place.assert_did_not_run()


def a_pickle_in_a_checkpoint(place: Place) -> None:
    """With a manifest that its maker has made to fit."""
    from pref_dist.files import describe_file

    run = place.copy_run()
    folder = next((run / "checkpoints").glob("step_*"))
    shard = next(folder.glob("model-*"))
    torch.save(Payload(place.witness), shard)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][shard.name] = describe_file(shard)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"(?i)header|safetensor"):
        pref_dist.load(run, checkpoint=str(manifest["step"]))
    place.assert_did_not_run()


def an_export_that_is_a_pickle(place: Place) -> None:
    folder = place.folder / "exported"
    pref_dist.export_run(place.run, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Payload(place.witness)}, folder / "pytorch_model.bin")
    assert "pickles alone" in refusal(lambda: pref_dist.load(folder))
    place.assert_did_not_run()


def pickled_rows_in_place_of_a_token_cache(place: Place) -> None:
    cache = Path(shutil.copytree(place.cache, place.folder / "cache"))
    entry = next(path for path in cache.iterdir() if path.is_dir() and (path / "manifest.json").is_file())
    for shard in entry.glob("*.arrow"):
        shard.write_bytes(pickle.dumps(Payload(place.witness)))
    config = load_config(place.write_config(data={"cache_dir": str(cache)}))
    assert "damaged" in refusal(lambda: pref_dist.prepare_rows(config))
    place.assert_did_not_run()


def numpy_objects_in_a_parquet_name(place: Place) -> None:
    """A .npy or .pkl file is no data format at all."""
    path = place.folder / "rows.pkl"
    path.write_bytes(pickle.dumps(Payload(place.witness)))
    refusal(lambda: pref_dist.inspect_data(path))
    place.assert_did_not_run()


def write_code(place: Place, folder: Path, model_type: str) -> None:
    """Give a model folder code of its own for config, tokenizer and model, as the hub allows it."""
    code = f"import os\nos.mkdir({str(place.witness)!r})\nclass Own:\n    pass\n"
    (folder / "own.py").write_text(code)
    for name, keys in (("config.json", ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")),
                       ("tokenizer_config.json", ("AutoTokenizer",))):  # fmt: skip
        values = json.loads((folder / name).read_text())
        values["auto_map"] = {key: ["own.Own", "own.Own"] if key == "AutoTokenizer" else "own.Own" for key in keys}
        if name == "config.json":
            values["model_type"] = model_type
        else:
            values["tokenizer_class"] = "Own"
        (folder / name).write_text(json.dumps(values))


def code_of_an_unknown_model_type(place: Place) -> None:
    folder = place.copy_model()
    write_code(place, folder, "own_type")
    done = run_program("train", place.write_config(model={"name": str(folder)}), said_yes=True)
    assert done.returncode == 8, done.stderr
    assert "wish to run the custom code" not in done.stdout + done.stderr, "somebody was asked"
    place.assert_did_not_run()


def code_beside_a_known_model_type(place: Place) -> None:
    folder = place.copy_model()
    write_code(place, folder, "bert")
    done = run_program("train", place.write_config(model={"name": str(folder)}), said_yes=True)
    assert "wish to run the custom code" not in done.stdout + done.stderr, "somebody was asked"
    place.assert_did_not_run()


def code_of_a_tokenizer_alone(place: Place) -> None:
    folder = place.copy_model()
    write_code(place, folder, "bert")
    with suppress(PrefDistError):
        load_tokenizer(folder)
    place.assert_did_not_run()


def code_in_a_run_folder(place: Place) -> None:
    run = place.copy_run()
    write_code(place, run / "model", "own_type")
    done = run_program("predict", run, "--data", place.sample / "test.csv", "--out", place.folder / "o", said_yes=True)
    assert done.returncode != 0
    assert "wish to run the custom code" not in done.stdout + done.stderr, "somebody was asked"
    place.assert_did_not_run()


def a_package_name_that_imports(place: Place) -> None:
    package = place.folder / "evil_weights"
    package.mkdir()
    (package / "__init__.py").write_text(f"import os\nos.mkdir({str(place.witness)!r})\n")
    done = run_program(
        "train",
        place.write_config(model={"name": "package:evil_weights/model"}),
        PYTHONPATH=f"{place.folder}:{os.getcwd()}",
    )
    assert done.returncode == 8, done.stderr
    place.assert_did_not_run()


def a_chat_template_that_reaches_for_python(place: Place) -> None:
    class Loaded:
        chat_template = "x"

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.model)
    tokenizer.chat_template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.mkdir('"
        + str(place.witness)
        + "') }}{{ messages[0].content }}"
    )
    assert read_chat_texts(tokenizer) is None
    place.assert_did_not_run()


def yaml_that_makes_objects(place: Place) -> None:
    tag = f"!!python/object/apply:os.mkdir [{place.witness}]"
    path = place.folder / "evil.yaml"
    path.write_text(f"run: {{dir: {tag}}}\n")
    assert "not valid YAML" in refusal(lambda: load_config(path))
    place.assert_did_not_run()


def yaml_that_makes_objects_by_set(place: Place) -> None:
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"):
        refusal(lambda tag=tag: load_config(None, [f"run.dir={tag} [{place.witness}]"]))
    place.assert_did_not_run()


def yaml_that_makes_objects_in_a_run_folder(place: Place) -> None:
    run = place.copy_run()
    with open(run / "config.yaml", "a") as file:
        file.write(f"extra: !!python/object/apply:os.mkdir [{place.witness}]\n")
    refusal(lambda: pref_dist.evaluate_run(run))
    place.assert_did_not_run()


def yaml_that_makes_objects_in_a_site(place: Place) -> None:
    site = place.folder / "site.yaml"
    site.write_text(f"partition: !!python/object/apply:os.mkdir [{place.witness}]\n")
    result = CliRunner().invoke(
        program, ["slurm", "submit", str(place.write_config()), "--site", str(site), "--dry-run"]
    )
    assert result.exception is not None
    place.assert_did_not_run()


def yaml_whose_aliases_explode(place: Place) -> None:
    """Nine levels of nine: 387 million words, if somebody wrote it out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = place.folder / "bomb.yaml"
    path.write_text("\n".join([*lines, "train: {epochs: *a8}", "run: {trackers: *a8}"]))
    assert len(refusal(lambda: load_config(path))) < 20_000


def yaml_with_a_key_that_is_a_list(place: Place) -> None:
    path = place.folder / "odd.yaml"
    path.write_text("? [a, b]\n: 1\n")
    assert "not valid YAML" in refusal(lambda: load_config(path))


def a_zip_of_a_pickle_as_rows(place: Place) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(place.witness)))
    path = place.folder / "rows.parquet"
    path.write_bytes(content.getvalue())
    refusal(lambda: pref_dist.inspect_data(path))
    place.assert_did_not_run()
