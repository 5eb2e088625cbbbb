"""pref_dist: exact, durable, fast distributed fine-tuning of preference cross-encoders.

The verbs of `pref-dist` as functions, each with the settings of its verb:

    import pref_dist

    pref_dist.write_sample("data")                                   # sample
    pref_dist.inspect_data("data/train.csv")                         # inspect
    config = pref_dist.load_config("run.yaml", {"train.epochs": 2})  # --set train.epochs=2
    pref_dist.prepare_rows(config)                                   # prepare
    result = pref_dist.train_run(config)                             # train
    pref_dist.evaluate_run(result.run_dir)                           # evaluate
    pref_dist.predict_rows(result.run_dir, "data/test.csv", "submission.csv")  # predict
    pref_dist.write_report(result.run_dir)                           # report
    pref_dist.export_run(result.run_dir, "exported")                 # export
    model = pref_dist.load("exported")

Errors meant for users are PrefDistError. Importing this package imports nothing else; a function brings what it needs.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pref_dist.blend.run import BlendOptions, BlendResult
    from pref_dist.blend.run import blend as blend_runs
    from pref_dist.cli.program import run_as_rank
    from pref_dist.config.load import load_config
    from pref_dist.config.schema import RunConfig
    from pref_dist.config.train_section import Precision
    from pref_dist.data.prepare import Prepared
    from pref_dist.data.prepare import prepare as prepare_rows
    from pref_dist.data.synthetic import SampleSummary, write_sample
    from pref_dist.errors import PrefDistError
    from pref_dist.evaluate.run import EvaluateOptions, EvaluateResult
    from pref_dist.evaluate.run import evaluate as evaluate_run
    from pref_dist.export import ExportResult
    from pref_dist.export import export as export_run
    from pref_dist.inspection.describe import Inspection, inspect_data
    from pref_dist.inspection.page import write_page as write_inspection
    from pref_dist.loaded_model import LoadedModel
    from pref_dist.predict import PredictOptions, PredictResult
    from pref_dist.predict import predict as predict_rows
    from pref_dist.report.comparison import write_comparison
    from pref_dist.report.write import write_report
    from pref_dist.train.assemble import TrainOptions
    from pref_dist.train.folds import FoldsResult, train_folds
    from pref_dist.train.run import TrainResult
    from pref_dist.train.run import train as train_run

__version__ = "0.1.0"

__all__ = [
    "BlendOptions",
    "BlendResult",
    "EvaluateOptions",
    "EvaluateResult",
    "ExportResult",
    "FoldsResult",
    "Inspection",
    "LoadedModel",
    "PredictOptions",
    "PredictResult",
    "PrefDistError",
    "Prepared",
    "RunConfig",
    "SampleSummary",
    "TrainOptions",
    "TrainResult",
    "blend_runs",
    "evaluate_run",
    "export_run",
    "inspect_data",
    "load",
    "load_config",
    "predict_rows",
    "prepare_rows",
    "run_as_rank",
    "train_folds",
    "train_run",
    "write_comparison",
    "write_inspection",
    "write_report",
    "write_sample",
]

# Where each name is at home: "module" or "module:its name there". The verbs' bare names (train, evaluate, ...) are
# modules of this package, so that the functions are called after what they work on.
PLACES = {
    "BlendOptions": "blend.run",
    "BlendResult": "blend.run",
    "EvaluateOptions": "evaluate.run",
    "EvaluateResult": "evaluate.run",
    "ExportResult": "export",
    "FoldsResult": "train.folds",
    "Inspection": "inspection.describe",
    "LoadedModel": "loaded_model",
    "PredictOptions": "predict",
    "PredictResult": "predict",
    "PrefDistError": "errors",
    "Prepared": "data.prepare",
    "RunConfig": "config.schema",
    "SampleSummary": "data.synthetic",
    "TrainOptions": "train.assemble",
    "TrainResult": "train.run",
    "blend_runs": "blend.run:blend",
    "evaluate_run": "evaluate.run:evaluate",
    "export_run": "export:export",
    "inspect_data": "inspection.describe",
    "load_config": "config.load",
    "predict_rows": "predict:predict",
    "prepare_rows": "data.prepare:prepare",
    "run_as_rank": "cli.program",
    "train_folds": "train.folds",
    "train_run": "train.run:train",
    "write_comparison": "report.comparison",
    "write_inspection": "inspection.page:write_page",
    "write_report": "report.write",
    "write_sample": "data.synthetic",
}


def __getattr__(name: str) -> Any:
    """Bring a function of the list above when it is first asked for. Raises AttributeError for other names."""
    import importlib

    if name not in PLACES:
        meant = [known for known in __all__ if known.startswith(f"{name}_")]
        hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
        raise AttributeError(f"module 'pref_dist' has no attribute {name!r}.{hint}")
    module, _, own_name = PLACES[name].partition(":")
    found = getattr(importlib.import_module(f"pref_dist.{module}"), own_name or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load(
    folder: "str | os.PathLike[str]",
    *,
    device: str | None = None,
    precision: "Precision | None" = None,
    token_budget: int | None = None,
    checkpoint: str | None = None,
) -> "LoadedModel":
    """Open a trained model: a folder that `pref-dist export` has written, or a run folder.

        model = pref_dist.load("exported")
        model.predict([{"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}])   # (1, 3): A, B, tie

    device: a torch device; None: the first GPU, else the CPU. precision: of the forward; None: the run's own.
    token_budget: most tokens of a batch, padding included; None: evaluate.token_budget. checkpoint, of a run
    folder: best, last or a step; None: the best one of a finished run. Nothing is fetched, no code of a folder is
    run, and weights are read from safetensors alone. Raises PrefDistError of the kind that fits.
    """
    from pathlib import Path

    from pref_dist.loaded_model import load_model

    return load_model(Path(folder), device, precision, token_budget, checkpoint)
