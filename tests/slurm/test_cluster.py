"""The job scripts on a real Slurm, as a user submits them: several nodes, preemption, time limit, lost nodes, failures.

Independent jobs run side by side: each test waits for those of its own, which the fixture `jobs` has submitted.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pref_dist.errors import ClusterError
from tests.ranks.launch_ranks import REPO_ROOT
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights
from tests.slurm.documented import find_trial, submit_documented
from tests.slurm.lab import Lab
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(360)]

LONG = {"max_steps": 120, "epochs": 10}
NEVER_ENDING = {"max_steps": 100_000, "epochs": 10_000, "save_every_steps": 10}
# The first update makes every weight infinite.
DIVERGES = {"learning_rate": 1e38, "warmup_fraction": 0.0, "max_skipped_steps": 0}
TRAIN = REPO_ROOT / "slurm" / "train.sbatch"


@dataclass(frozen=True)
class Submission:
    """A job that was submitted, and its run folder."""

    job: str
    run_dir: Path


def submit_chain(lab: Lab, run_yaml: Path, site: dict[str, object], *options: object) -> dict[str, str]:
    """Submit by `pref-dist slurm submit`; the number of each job by its name."""
    return submit_words(lab, ["slurm", "submit", str(run_yaml), *map(str, options)], run_yaml, site)


def submit_words(lab: Lab, words: list[str], run_yaml: Path, site: dict[str, object]) -> dict[str, str]:
    site_yaml = run_yaml.with_suffix(".site.yaml")
    values = {"partition": "gpu", "cpus_per_node": 1, "prepare_cpus": 1, "time": "10", "short_time": "10", **site}
    site_yaml.write_text(yaml.safe_dump(values), encoding="utf-8")
    said = run_program(lab, *words, "--site", site_yaml, "--json")
    return {entry["name"]: entry["job"] for entry in json.loads(said)["jobs"]}


def run_program(lab: Lab, *arguments: object, **env: str) -> str:
    return lab.call(lab.env["PREF_DIST_PYTHON"], "-m", "pref_dist", *arguments, **env)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir) -> TinyRuns:
    return TinyRuns(tmp_path_factory.mktemp("runs"), sample_dir / "train.csv", tiny_model, cache_dir)


@pytest.fixture(scope="module")
def jobs(lab: Lab, runs: TinyRuns, sample_dir: Path) -> dict[str, Submission]:
    """The jobs whose beginning no test has to see."""

    def train(
        name: str, backend: str, nodes: int, sections: dict[str, object], *options: str, **env: str
    ) -> Submission:
        run_yaml, run_dir = runs.write(name, **sections)
        return Submission(lab.submit(f"--nodes={nodes}", *options, TRAIN, backend, 1, run_yaml, **env), run_dir)

    chain_yaml, _ = runs.write("trial")
    chain_dir = runs.folder / "folds of a cat's $HOME"
    chain = submit_words(lab, find_trial(chain_yaml, chain_dir, sample_dir), chain_yaml, {})
    # Slurm itself is not to say that the end is near.
    silent = lab.logs / "silent.sbatch"
    silent.write_text(re.sub("(?m)^#SBATCH --signal.*", "", TRAIN.read_text(encoding="utf-8")), encoding="utf-8")
    limited_yaml, limited_dir = runs.write("limited", train=NEVER_ENDING)
    limited = lab.submit("--time=2", silent, "ddp", 1, limited_yaml)
    single = train("single", "ddp", 1, {})
    folds_yaml, folds_dir = runs.write("folds_by_hand", train={"max_steps": 3})
    by_hand = submit_documented(lab, folds_yaml, single.run_dir, sample_dir / "test.csv", single.job)
    return {
        **{script: Submission(job, folds_dir) for script, job in by_hand.items()},
        "limited": Submission(limited, limited_dir),
        "preempted": train("preempted", "ddp", 1, {"train": LONG}, "--partition=spot"),
        "alone": train("alone", "ddp", 1, {"train": LONG}),
        "single": single,
        "ddp": train("two_nodes", "ddp", 2, {}),
        "zero2": train("two_nodes_zero2", "zero2", 2, {}),
        "chain": Submission(chain["predict"], chain_dir),
        "diverged": train("diverged", "ddp", 2, {"train": DIVERGES}),
        # An address that nobody has.
        "blind": train("blind", "ddp", 2, {}, PREF_DIST_ADDRESS="192.0.2.1", PREF_DIST_RENDEZVOUS_SECONDS="5"),
    }


def num_steps(run_dir: Path) -> int:
    log = run_dir / "metrics.jsonl"
    return log.read_text(encoding="utf-8").count('"loss"') if log.exists() else 0


def state_of(run_dir: Path) -> dict[str, object]:
    return dict(json.loads((run_dir / "state.json").read_text(encoding="utf-8")))


def steps_in(text: str, before: str) -> list[int]:
    return [int(step) for step in re.findall(rf"{before} (\d+)", text)]


def check_completed(lab: Lab, submission: Submission) -> None:
    ended = lab.wait_for_end(submission.job)
    assert ended["JobState"] == "COMPLETED", lab.explain(submission.job)
    assert state_of(submission.run_dir)["state"] == "finished"


def test_preempted_twice_a_job_goes_on_at_the_same_step_and_ends_with_the_same_weights(lab, jobs):
    job, run_dir = jobs["preempted"].job, jobs["preempted"].run_dir
    for count in (1, 2):
        reached = num_steps(run_dir)
        lab.wait_until(lambda least=reached: num_steps(run_dir) > least, "a step", job)
        taker = lab.submit("--partition=urgent", "--exclusive", "--wrap=sleep 1")
        lab.wait_for_restart(job, count)
        assert lab.wait_for_end(taker)["JobState"] == "COMPLETED"
    check_completed(lab, jobs["preempted"])
    stops, starts = steps_in(lab.log(job), "stopped at step"), steps_in(lab.log(job), "Going on from step")
    assert len(stops) == 2
    assert stops == starts
    check_completed(lab, jobs["alone"])
    assert read_losses(run_dir) == read_losses(jobs["alone"].run_dir)
    assert largest_difference(read_weights(run_dir), read_weights(jobs["alone"].run_dir)) == 0


def test_before_the_time_limit_a_job_saves_by_itself_and_is_put_back(lab, jobs):
    job, run_dir = jobs["limited"].job, jobs["limited"].run_dir
    lab.wait_for_restart(job, 1)
    lab.wait_until(lambda: "Going on from step" in lab.log(job), "the next try", job)
    text = lab.log(job)
    assert re.search(r"stopped at step \d+ \(the job's time ends in \d+ s, and a step and a save may take", text), text
    assert steps_in(text, "Going on from step")[0] == steps_in(text, "stopped at step")[0] > 0
    # Whereas it is the user who asks by a stop file.
    (run_dir / "stop").touch()
    ended = lab.wait_for_end(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0"), lab.explain(job)


def test_a_job_whose_node_dies_is_put_back_and_finished(lab, runs):
    run_yaml, run_dir = runs.write("lost_node", train={"max_steps": 60, "epochs": 6, "save_every_steps": 10})
    job = lab.submit("--partition=frail", "--nodes=2", TRAIN, "ddp", 1, run_yaml)
    lab.wait_until(lambda: num_steps(run_dir) > 12, "a checkpoint", job)
    lab.kill_node(5)
    # Slurm's two minutes of waiting may be skipped once it has cleaned up the other node; a third one takes over.
    lab.wait_until(lambda: [lab.state_of(4), lab.state_of(5)] == ["idle", "down"], "the end of the try", job)
    lab.wait_for_restart(job, 1)
    check_completed(lab, Submission(job, run_dir))
    assert steps_in(lab.log(job), "Going on from step")[0] >= 10
    assert len(read_losses(run_dir)) == 60


@pytest.mark.parametrize("backend", ["ddp", "zero2"])
def test_two_nodes_are_one_run_with_the_losses_of_one_process(lab, jobs, backend):
    check_completed(lab, jobs["single"])
    check_completed(lab, jobs[backend])
    assert f"2 x cpu, {backend}" in lab.log(jobs[backend].job)
    losses = (read_losses(jobs[name].run_dir) for name in (backend, "single"))
    assert largest_loss_difference(*losses) < 1e-5


def test_a_chain_over_folds_ends_in_a_submission(lab, jobs, sample_dir):
    job, run_dir = jobs["chain"].job, jobs["chain"].run_dir
    assert lab.wait_for_end(job)["JobState"] == "COMPLETED", run_program(lab, "slurm", "logs", run_dir)
    given = pd.read_csv(sample_dir / "test.csv", dtype={"id": str})
    submission = pd.read_csv(run_dir / "submission.csv", dtype={"id": str})
    assert submission["id"].tolist() == given["id"].tolist()
    assert (submission.iloc[:, 1:].sum(axis=1) - 1).abs().max() < 1e-6
    found = json.loads(run_program(lab, "slurm", "status", run_dir, "--json"))
    names = [(one["name"], one["task"]) for one in found["jobs"]]
    assert names == [("prepare", None), ("folds", 0), ("folds", 1), ("evaluate", None), ("predict", None)]
    assert {(one["state"], one["exit_code"]) for one in found["jobs"]} == {("COMPLETED", "0")}
    assert [state["state"] for state in found["progress"].values()] == ["finished"] * 2
    logs = run_program(lab, "slurm", "logs", run_dir, "--follow")
    assert f": the submission: {run_dir}/submission.csv" in logs
    assert re.search(rf"waits or runs any more:\n.*\n(.*\n){{4}}predict +{job} +COMPLETED", logs), logs
    # As long after that Slurm has forgotten them, on a machine that does not even know it.
    assert json.loads(run_program(lab, "slurm", "status", run_dir, "--json", PATH="/nowhere")) == found


def test_the_job_scripts_do_what_docs_clusters_says(lab, jobs):
    run_dir, folds_dir = jobs["single"].run_dir, jobs["folds"].run_dir
    for script in ("prepare", "evaluate", "predict"):
        assert lab.wait_for_end(jobs[script].job)["JobState"] == "COMPLETED", lab.explain(jobs[script].job)
    assert json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["baselines"]
    assert (run_dir / "submission.csv").exists()
    folds = jobs["folds"].job
    lab.wait_until((folds_dir / "oof_logits.parquet").exists, "the end of the folds", folds)


def test_ranks_that_fail_give_the_job_their_exit_code_and_the_log_names_the_first(lab, jobs):
    ended = lab.wait_for_end(jobs["diverged"].job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "7:0")
    assert re.search(
        rf"job {jobs['diverged'].job}: rank [01] failed first, with exit code 7", lab.log(jobs["diverged"].job)
    )
    assert "train.max_skipped_steps=0" in lab.log(jobs["diverged"].job)


def test_nodes_that_do_not_find_each_other_fail(lab, jobs):
    ended = lab.wait_for_end(jobs["blind"].job)
    assert ended["JobState"] == "FAILED", lab.explain(jobs["blind"].job)
    assert "must come to 192.0.2.1" in lab.log(jobs["blind"].job)
    assert not (jobs["blind"].run_dir / "metrics.jsonl").exists()


def test_tasks_of_srun_without_a_launcher_fail_instead_of_training_alone(lab, runs):
    run_yaml, run_dir = runs.write("alone_each")
    command = f"srun {lab.env['PREF_DIST_PYTHON']} -m pref_dist train {run_yaml}"
    job = lab.submit("--nodes=2", "--ntasks-per-node=1", f"--wrap={command}")
    ended = lab.wait_for_end(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "4:0"), lab.explain(job)
    assert "each would train alone" in lab.log(job)
    assert not run_dir.exists()


def test_a_cancelled_chain_saves_its_training_and_is_gone(lab, runs):
    run_yaml, run_dir = runs.write("cancelled", train=NEVER_ENDING)
    chain = submit_chain(lab, run_yaml, {}, "--dry-run")
    assert chain == {}
    assert not run_dir.exists()
    chain = submit_chain(lab, run_yaml, {})
    lab.wait_until(lambda: num_steps(run_dir) > 0, "a step", chain["train"])
    assert f"train {chain['train']}: asked to save and stop" in run_program(lab, "slurm", "cancel", run_dir)
    ended = lab.wait_for_end(chain["train"])
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "75:0", "0")
    assert state_of(run_dir)["state"] == "stopped"
    assert "stopped at step" in run_program(lab, "slurm", "logs", run_dir, "--job", "train")
    lab.wait_until(lambda: lab.show(chain["evaluate"])["JobState"] == "CANCELLED", "its removal", chain["evaluate"])
    # Another submission is welcome now.
    run_program(lab, "slurm", "submit", run_yaml, "--site", run_yaml.with_suffix(".site.yaml"), "--dry-run")


def test_a_chain_of_which_one_job_is_refused_leaves_none_in_the_queue(lab, runs, monkeypatch):
    from pref_dist.cluster.scripts import plan_jobs
    from pref_dist.cluster.site import Site
    from pref_dist.cluster.submit import submit, submit_chain, write_folder
    from pref_dist.config.load import load_config

    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    run_yaml, run_dir = runs.write("refused")
    config, site = load_config(run_yaml), Site(cpus_per_node=1, prepare_cpus=1)
    found = submit(config, site, dry_run=True)
    assert found.jobs == []
    assert found.checked_by_slurm
    jobs = plan_jobs(config, site, run_yaml)
    write_folder(found.folder, config, site, dict(zip([job.name for job in jobs], found.texts.values(), strict=True)))
    scripts = [*map(Path, list(found.texts)[:-1]), found.folder / "missing.sbatch"]
    with pytest.raises(ClusterError, match=r"missing\.sbatch"):
        submit_chain(found.folder, jobs, scripts)
    queue = lab.call("squeue", "--noheader", "--format=%j")
    assert "refused" not in queue
    assert not (run_dir / "slurm" / "jobs.json").exists()


def test_what_slurm_would_refuse_is_refused_before_anything_is_submitted(lab, runs, monkeypatch):
    from pref_dist.cluster.site import Site
    from pref_dist.cluster.submit import submit
    from pref_dist.config.load import load_config

    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    run_yaml, run_dir = runs.write("too_large")
    for dry_run in (True, False):
        with pytest.raises(ClusterError, match="Requested node configuration is not available"):
            submit(load_config(run_yaml), Site(nodes=99, cpus_per_node=1, prepare_cpus=1), dry_run=dry_run)
    assert not run_dir.exists()
