"""What a child process can be asked, and where the answer is made (module:function, imported in the child alone)."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainQuestion:
    """One training to measure. Paths are strings, since they travel as JSON.

    folder: this measurement's own. rows_csv: what is trained on, each row once. valid_csv: rows that our run needs for
    its end; with_log_loss: its log loss of them is asked for, too. precision: auto, fp32, bf16 or fp16.
    seed: of the head, the order of the rows and dropout. overrides: `section.key=value` of our run config, which go
    before all else; the peers have none. with_preparation: ours also tells what reading the rows took.
    """

    folder: str
    rows_csv: str
    valid_csv: str
    model: str
    max_tokens: int
    rows_per_step: int
    dropout: float
    precision: str
    seed: int
    overrides: list[str] = field(default_factory=list)
    with_preparation: bool = False
    with_log_loss: bool = False


@dataclass(frozen=True)
class EvaluateQuestion:
    """One evaluation to measure. run_dir: our trained run; the peers take the weights of `model`, which cost the same.

    overrides: settings of our run that may change after training.
    """

    folder: str
    rows_csv: str
    model: str
    max_tokens: int
    precision: str
    run_dir: str = ""
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CacheQuestion:
    """One build of tokens from a file. num_processes: of datasets.map; ours decides by itself (data.num_workers)."""

    folder: str
    rows_csv: str
    model: str
    max_tokens: int
    num_processes: int = 1


@dataclass(frozen=True)
class PlanQuestion:
    """How many rows to plan, into which steps."""

    num_rows: int
    rows_per_step: int
    token_budget: int
    max_tokens: int


@dataclass(frozen=True)
class ModelQuestion:
    """Write random weights of an architecture. tokenizer: the folder whose tokenizer files it gets."""

    folder: str
    shape: str
    tokenizer: str
    max_tokens: int


PARTS: dict[str, tuple[type, str]] = {
    "own_train": (TrainQuestion, "pref_dist.bench.own_train:measure"),
    "seed_train": (TrainQuestion, "pref_dist.bench.seed_trainer:measure_training"),
    "best_train": (TrainQuestion, "pref_dist.bench.best_trainer:measure_training"),
    "sentence_transformers_train": (TrainQuestion, "pref_dist.bench.cross_encoder:measure_training"),
    "make_run": (TrainQuestion, "pref_dist.bench.own_evaluate:make_run"),
    "own_evaluate": (EvaluateQuestion, "pref_dist.bench.own_evaluate:measure"),
    "seed_evaluate": (EvaluateQuestion, "pref_dist.bench.seed_trainer:measure_evaluation"),
    "best_evaluate": (EvaluateQuestion, "pref_dist.bench.best_trainer:measure_evaluation"),
    "own_cache": (CacheQuestion, "pref_dist.bench.build_tokens:build_own"),
    "map_cache": (CacheQuestion, "pref_dist.bench.build_tokens:build_by_map"),
    "warm_cache": (CacheQuestion, "pref_dist.bench.build_tokens:open_warm"),
    "plan": (PlanQuestion, "pref_dist.bench.make_plan:measure"),
    "write_model": (ModelQuestion, "pref_dist.bench.shapes:write_random_model"),
}
