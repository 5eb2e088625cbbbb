"""Whether a run config can be carried out here: its model, data, run folder, back-end."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pref_dist.doctor.cores import count_local_ranks
from pref_dist.doctor.devices import count_driver_gpus
from pref_dist.doctor.finding import Finding, Question
from pref_dist.doctor.folders import judge_folder
from pref_dist.doctor.hub import ANSWER_SECONDS, explain, find_endpoint, is_offline
from pref_dist.errors import ConfigError, DataError, ModelError, ParallelError
from pref_dist.files import render_bytes
from pref_dist.models.sizes import ModelSizes, count_stored, measure_files
from pref_dist.runtime.host_memory import read_free
from pref_dist.runtime.memory_estimate import Sharing, estimate_state

if TYPE_CHECKING:
    from pref_dist.config.schema import RunConfig


def check_config(question: Question) -> Iterator[Finding]:
    """Read the run config, or the settings alone."""
    from pref_dist.config.load import load_config

    name = question.run_yaml or "the defaults"
    try:
        load_config(None if question.run_yaml is None else Path(question.run_yaml), question.overrides)
    except ConfigError as error:
        yield Finding("run config", "error", str(error), "Mend it; every key stands in pref_dist/config/schema.py.")
        return
    if question.run_yaml is not None:
        yield Finding("run config", "ok", f"{name} is valid")


def check_launch(question: Question) -> Iterator[Finding]:
    """See whether the environment would let this process train alone although it is meant to be one of several."""
    from pref_dist.runtime.topology import find_topology

    try:
        found = find_topology(os.environ)
    except (ParallelError, ConfigError) as error:
        yield Finding("launch", "error", str(error), "Start the ranks by launch/node.sh, launch/nodes.sh or slurm/*.")
        return
    yield Finding("launch", "ok", f"this process is rank {found.rank} of {found.world_size} ({found.backend})")


def check_backend(question: Question) -> Iterator[Finding]:
    """See whether the back-end that is asked for can run what is asked of it."""
    from pref_dist.runtime.parallel import check_compile

    if question.config is None or question.config.parallel.backend == "auto":
        return
    parallel = question.config.parallel
    try:
        check_compile(parallel, question.config.parallel.backend)
    except ParallelError as error:
        yield Finding("back-end", "error", str(error), "Set parallel.compile=false.")
        return
    how = "launch/single.sh" if parallel.backend == "single" else f"launch/node.sh {parallel.backend} N"
    yield Finding("back-end", "ok", f"parallel.backend={parallel.backend}: bash {how} train RUN.yaml")


def check_data(question: Question) -> Iterator[Finding]:
    """Open every file of rows that the run reads; what is in them is the matter of `prepare`."""
    from pref_dist.data.data_files import find_files

    config = question.asked_config
    if config is None:
        return
    for setting, text in list_sources(config):
        try:
            files = find_files(Path(text))
            num_bytes = sum(try_to_read(file) for file in files)
        except (DataError, OSError) as error:
            yield Finding(setting, "error", f"{text}: {error}", f"Mend the path or its permissions ({setting}).")
            continue
        yield Finding(setting, "ok", f"{text}: {len(files):,} file(s), {render_bytes(num_bytes)}, can be read")


def list_sources(config: "RunConfig") -> list[tuple[str, str]]:
    """Return (setting, path) of every source of rows."""
    data = config.data
    named = [("data.train", data.train), ("data.valid", data.valid), ("data.test", data.test)]
    sources = [(f"data.sources[{number}]", source.path) for number, source in enumerate(data.sources or [])]
    return [*((setting, path) for setting, path in named if path is not None), *sources]


def try_to_read(path: Path) -> int:
    """Return the bytes of a file whose beginning can be read. Raises OSError, also if there is nothing in it."""
    with open(path, "rb") as file:
        if not file.read(1):
            raise OSError(f"{path} is empty")
    return path.stat().st_size


def check_model(question: Question) -> Iterator[Finding]:
    """Find the model as training would, but fetch nothing."""
    if question.asked_config is None:
        return
    name = question.asked_config.model.name
    remedy = "Point model.name at a folder that holds config.json, model.safetensors and the tokenizer's files."
    try:
        folder = find_local_model(name)
        num_parameters = 0 if folder is None else count_stored(folder)
    except ModelError as error:
        yield Finding("model", "error", str(error), remedy)
        return
    if folder is None:
        yield ask_hub(name, remedy)
        return
    if not num_parameters and not question.asked_config.model.from_scratch:
        yield Finding("model", "error", f"model.name={name}: {folder} holds no weights (*.safetensors)", remedy)
        return
    yield Finding("model", "ok", f"{name}: {folder}, {num_parameters / 1e6:.1f}M parameters stored")


def find_local_model(name: str) -> Path | None:
    """Return the folder whose weights `model.name` means, without a network; None: only the hub can have it.

    Raises ModelError.
    """
    from pref_dist.models.source import find_first_stage, find_model_folder

    stage = find_first_stage(name)
    if stage is not None:
        find_model_folder(name)  # raises where there is no best checkpoint
        step = json.loads(stage.best.read_text(encoding="utf-8"))["step"]
        return stage.checkpoints / f"step_{step:06d}"
    had_offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # so that a hub id is looked for in the hub's cache alone
    try:
        return find_model_folder(name)
    except ModelError as error:
        # Only a name that can be a hub id gets as far as the hub.
        if error.__cause__ is None:
            raise
        return None
    finally:
        if had_offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = had_offline


def ask_hub(name: str, remedy: str) -> Finding:
    """Say whether the hub would give a model that is not here."""
    import urllib.request

    if is_offline():
        return Finding("model", "error", f"model.name={name} is not here, and the hub is not asked (offline)", remedy)
    url = f"{find_endpoint()}/{name}/resolve/main/config.json"
    token = os.environ.get("HF_TOKEN", "")
    headers = {"User-Agent": "pref-dist doctor"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_SECONDS):
            return Finding("model", "ok", f"{name} is on the hub, and will be fetched at the first start")
    except (OSError, ValueError) as error:
        code = getattr(error, "code", None)
        reason = {401: "it needs a login (HF_TOKEN)", 403: "its terms are not accepted", 404: "no such model"}.get(
            code or 0, explain(error, ANSWER_SECONDS)
        )
        return Finding("model", "error", f"model.name={name} is not here, and {find_endpoint()}: {reason}", remedy)


def check_rank_memory(question: Question) -> Iterator[Finding]:
    """Calculate what model and optimiser take of a rank; without a GPU that must fit into the memory of the host."""
    config = question.asked_config
    sizes = None if config is None else find_sizes(config)
    if config is None or sizes is None:
        return  # the hub has the weights, or there are none yet
    world_size = count_ranks(config)
    backend = config.parallel.backend
    if backend == "auto":
        backend = "ddp" if world_size > 1 else "single"
    precision = "fp32" if config.train.precision == "auto" else config.train.precision
    state = estimate_state(sizes, Sharing(backend, world_size, precision))
    seen = f"about {render_bytes(state.total)} for model and optimiser ({backend}, {world_size} rank(s))"
    needed, free = state.total * count_local_ranks(question), read_free()
    if count_driver_gpus() == 0 and needed > free:
        yield Finding(
            "memory of a rank", "warning", f"{seen}; {render_bytes(free)} are free for all ranks of this machine",
            "Use a smaller model.name, model.lora, fewer ranks here, or parallel.backend=zero3 on more machines.",
        )  # fmt: skip
        return
    seen += "; its batches come on top: pref-dist train RUN.yaml --dry-run measures them"
    yield Finding("memory of a rank", "ok", seen)


def count_ranks(config: "RunConfig") -> int:
    """Return the ranks that were launched, else those that are asked for, else 1."""
    launched = os.environ.get("WORLD_SIZE", "")
    asked = config.parallel.world_size
    return int(launched) if launched.isdigit() and int(launched) > 0 else 1 if asked == "auto" else asked


def check_run_folder(question: Question) -> Iterator[Finding]:
    """Try the run folder, and compare its room with the checkpoints that will lie there."""
    config = question.asked_config
    if config is None:
        return
    one = estimate_checkpoint(config)
    # The newest ones, the best one, and the one that is being written.
    wanted = one * (config.train.keep_last + 2)
    remedy = "Lower train.keep_last, or move the run folder to another disk by run.dir."
    finding = judge_folder("run folder", Path(config.run.dir), remedy, needed_bytes=one, wanted_bytes=wanted)
    known = f"; a checkpoint has about {render_bytes(one)}" if one else ""
    yield Finding(finding.name, finding.state, finding.seen + known, finding.remedy)


def estimate_checkpoint(config: "RunConfig") -> int:
    """Return about how many bytes a checkpoint has; 0 where no stored weights tell."""
    sizes = find_sizes(config)
    return 0 if sizes is None else sizes.checkpoint_bytes


def find_sizes(config: "RunConfig") -> ModelSizes | None:
    """Return about how much there is of the model; None where no stored weights tell."""
    try:
        folder = find_local_model(config.model.name)
        return None if folder is None else measure_files(folder, config.model)
    except (ModelError, OSError, ValueError, KeyError):
        return None
