"""THE table: what is exchanged in a command before it is executed, and which commands another test executes.

A command of a document that is in none of the lists below is executed as it stands.
"""

import re
from dataclasses import dataclass

LAUNCHERS = "tests/launch/test_launchers.py"
BENCH = "tests/bench/test_bench_verbs.py"
SUBMISSION = "tests/launch/test_submission.py"
SLURM = "tests/slurm/test_cluster.py"


@dataclass(frozen=True)
class Exchange:
    """`pattern` becomes `by`; MODEL, the tiny model's folder, is known when commands are executed."""

    pattern: str
    by: str
    reason: str


@dataclass(frozen=True)
class Elsewhere:
    """Commands of this pattern are executed by `test` (FILE::NAME, or a file that CI runs)."""

    pattern: str
    test: str
    reason: str


@dataclass(frozen=True)
class NotRun:
    pattern: str
    reason: str


EXCHANGES = (
    Exchange(r"/path/to/deberta-v3-base", "MODEL", "a tiny random model"),
    Exchange(r"\bRUN_DIR\b", "runs/run", "the run of RUN.yaml"),
    Exchange(
        r"bash launch/node\.sh \S+ \S+ (?=evaluate|blend|predict runs|train configs|train .*--folds)",
        "pref-dist ",
        "in one process; the README's training and docs/kaggle.md's prediction go through the launcher",
    ),
    Exchange(r"bash launch/single\.sh ", "pref-dist ", "the launcher itself: tests/launch/test_launchers.py"),
    Exchange(r"--nproc_per_node 8", "--nproc_per_node 2", "two ranks"),
    Exchange(r"world_size=8", "world_size=2", "two ranks"),
    Exchange(r"--overfit-one-step", "--overfit-one-step --set train.learning_rate=1e-3", "random weights need it"),
    Exchange(r"data\.num_folds=5", "data.num_folds=2", "two folds"),
    Exchange(r"--fold 2", "--fold 1", "of two folds"),
    Exchange(r"precision=fp16", "precision=bf16", "not every CPU has fp16 arithmetic"),
    Exchange(r"--time-limit-minutes 500", "--time-limit-minutes 10", "as long as this test may take"),
)

ELSEWHERE = (
    Elsewhere(r"bash launch/demo\.sh", ".ci/run", "CI begins with it"),
    Elsewhere(r"bash launch/test\.sh", ".ci/run", "it runs this test"),
    Elsewhere(
        r"bash launch/faults\.sh",
        "tests/faults/test_faults.py::test_a_sample_of_faults_is_survived_without_a_silent_wrong_result",
        "all classes take ten minutes",
    ),
    Elsewhere(
        r"bash launch/submission\.sh .* --folds 1$",
        f"{SUBMISSION}::test_one_command_goes_from_two_files_to_a_submission",
        "the same call",
    ),
    Elsewhere(
        r"bash launch/submission\.sh",
        f"{SUBMISSION}::test_a_signal_saves_the_training_and_the_same_command_finishes_and_blends_three_folds",
        "the same call, with a small model",
    ),
    Elsewhere(
        r"bash launch/node\.sh (zero2|zero3|fsdp2) 8 train \S+$",
        f"{LAUNCHERS}::test_node_sh_trains_on_two_ranks_that_share_the_model",
        "on two ranks",
    ),
    Elsewhere(
        r"bash launch/node\.sh ddp auto train RUN\.yaml$",
        "tests/documents/test_commands.py::test_the_commands_of_a_document_do_what_it_says",
        "the README's first training is this command",
    ),
    Elsewhere(
        r"bash launch/nodes\.sh zero2 2 [01] 8 ",
        f"{LAUNCHERS}::test_two_machines_train_by_zero2_as_one_process_does",
        "two processes are two machines",
    ),
    Elsewhere(
        r"bash launch/nodes\.sh zero2 NUM_NODES NODE_RANK 8",
        f"{LAUNCHERS}::test_two_machines_train_by_zero2_as_one_process_does",
        "two processes are two machines",
    ),
    Elsewhere(
        r"accelerate launch .*zero2\.yaml --num_processes 8 -m pref_dist train \S+\.yaml",
        f"{LAUNCHERS}::test_accelerate_launch_by_hand_needs_nothing_but_its_config_file",
        "the same call",
    ),
    Elsewhere(
        r"accelerate launch .*ddp\.yaml -m pref_dist doctor --ranks",
        "tests/ranks/test_doctor_ranks.py::test_under_accelerate_launch_the_ranks_see_each_other",
        "the same call",
    ),
    Elsewhere(
        r"bash launch/node\.sh ddp 2 doctor --ranks|^srun .* doctor --ranks",
        "tests/ranks/test_doctor_ranks.py::test_under_accelerate_launch_the_ranks_see_each_other",
        "the launchers call accelerate launch",
    ),
    Elsewhere(
        r"(pref-dist|-m pref_dist) doctor",
        "tests/doctor/test_doctor.py::test_a_sound_machine_has_no_errors_and_every_finding_says_what_was_seen",
        "its exit code depends on the machine",
    ),
    Elsewhere(
        r"accelerate launch .*kaggle/code/configs/accelerate/ddp\.yaml .*predict",
        "tests/documents/test_commands.py::test_the_commands_of_a_document_do_what_it_says",
        "launch/node.sh, two commands before it, calls it so",
    ),
    Elsewhere(
        r"^torchrun --nnodes 2",
        "tests/documents/test_commands.py::test_the_commands_of_a_document_do_what_it_says",
        "docs/distributed.md has it for one machine",
    ),
    Elsewhere(
        r"accelerate launch .*--num_machines 2",
        f"{LAUNCHERS}::test_two_machines_train_by_zero2_as_one_process_does",
        "launch/nodes.sh calls it so",
    ),
    Elsewhere(
        r"sbatch .*slurm/train\.sbatch", f"{SLURM}::test_two_nodes_are_one_run_with_the_losses_of_one_process", "Slurm"
    ),
    Elsewhere(
        r"sbatch .*slurm/(prepare|folds|evaluate|predict)\.sbatch",
        f"{SLURM}::test_the_job_scripts_do_what_docs_clusters_says",
        "Slurm; it reads them from there",
    ),
    Elsewhere(
        r"pref-dist slurm (submit|status|logs)", f"{SLURM}::test_a_chain_over_folds_ends_in_a_submission", "Slurm"
    ),
    Elsewhere(r"pref-dist slurm cancel", f"{SLURM}::test_a_cancelled_chain_saves_its_training_and_is_gone", "Slurm"),
    Elsewhere(r"pref-dist bench train", f"{BENCH}::test_every_pipeline_trains_on_every_row_once", "on rows of minutes"),
    Elsewhere(
        r"pref-dist bench evaluate", f"{BENCH}::test_evaluate_answers_every_row_and_pads_only_the_seeds", "the same"
    ),
    Elsewhere(
        r"pref-dist bench cache", f"{BENCH}::test_cache_reads_all_rows_and_more_where_they_are_asked_for", "the same"
    ),
    Elsewhere(r"pref-dist bench plan", f"{BENCH}::test_plan_times_every_row_of_an_epoch", "the same"),
    Elsewhere(r"pref-dist bench scaling", f"{BENCH}::test_scaling_runs_through_the_launcher", "the same"),
    Elsewhere(r"pref-dist bench growth", f"{BENCH}::test_growth_fills_every_row_up_to_the_cap", "the same"),
)

NOT_RUN = (
    NotRun(r"^pip download ", "asks a package index, which tests do not"),
    NotRun(r"^pip install .*kaggle/wheels", "installs what pip download has fetched"),
)


def exchange(text: str, model: str) -> str:
    """The command that is executed."""
    for one in EXCHANGES:
        text = re.sub(one.pattern, one.by, text)
    return text.replace("MODEL", model)


def find_reason(text: str) -> Elsewhere | NotRun | None:
    """Why a command, as it stands in a document, is not executed here; None: it is."""
    return next((one for one in (*ELSEWHERE, *NOT_RUN) if re.search(one.pattern, said(text))), None)


def said(text: str) -> str:
    """A command in one line, without the comment behind it."""
    return " ".join(re.sub(r"\s+# .*", "", text).replace("\\\n", " ").split())
