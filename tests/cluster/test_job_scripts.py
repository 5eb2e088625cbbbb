"""The scripts of `pref-dist slurm submit`: golden ones, which people have read, and names that look like code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pref_dist.cluster.commands import check_syntax
from pref_dist.cluster.scripts import Surroundings, plan_jobs, render_script
from pref_dist.cluster.site import Site, load_site
from pref_dist.cluster.submit import settle
from pref_dist.config.load import load_config
from pref_dist.config.schema import RunConfig
from pref_dist.errors import ClusterError, ConfigError
from tests.ranks.launch_ranks import REPO_ROOT

GOLDEN = REPO_ROOT / "tests" / "golden" / "slurm"
PLACE = Surroundings(Path("/shared/me"), Path("/shared/me/pref_dist"), Path("/shared/me/pref_dist/.venv/bin/python"))
AWKWARD = ("a run", "it's", "$HOME", "$(touch broken)", "`touch broken`", "a;b", "a#b", "*", "-x", "ünï", "a&b|c")
REFUSED = ('say "x"', "back\\slash", "two\nlines", "50%j")


def config_of(*overrides: str) -> RunConfig:
    return load_config(None, ["run.dir=/shared/me/runs/demo", *overrides])


def render_all(config: RunConfig, site: Site, place: Surroundings = PLACE) -> dict[str, str]:
    jobs = plan_jobs(config, site, Path(config.run.dir) / "slurm" / "run.yaml")
    return {job.name: render_script(job, config, site, place) for job in jobs}


def check_by_shellcheck(script: Path) -> None:
    found = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([found, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("num_folds", [None, 5])
def test_the_scripts_are_those_that_people_have_read(num_folds):
    site = load_site(REPO_ROOT / "configs" / "sites" / "example.yaml")
    config = settle(config_of("data.test=test.csv", "parallel.backend=zero2"), num_folds)
    for name, text in render_all(config, site).items():
        path = GOLDEN / f"{name}.sbatch"
        assert text == path.read_text(encoding="utf-8"), name
        check_by_shellcheck(path)


def test_the_smallest_site_gives_scripts_without_options_that_nobody_asked_for():
    scripts = render_all(config_of(), Site(gpus_per_node=0))
    assert list(scripts) == ["prepare", "train", "evaluate"]
    for absent in ("partition", "account", "qos", "constraint", "gpus", "mem", "array"):
        assert f"#SBATCH --{absent}" not in scripts["train"]
    assert "\ntrain_job ddp 1 " in scripts["train"]
    assert "set +u" not in scripts["train"]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_name_that_looks_like_code_stays_a_name(tmp_path, name):
    """Of the run, its rows and the folders: bash hands each on as it is, to a job.sh that says what it got."""
    here, root = tmp_path / name, tmp_path / "root" / name
    (root / "slurm").mkdir(parents=True)
    here.mkdir()
    told = 'predict_job() { printf "%s\\n" "$PWD" "$@"; }\n'
    (root / "slurm" / "job.sh").write_text(told, encoding="utf-8")
    config = config_of(f"run.dir='{str(here).replace(chr(39), 2 * chr(39))}'").model_copy()
    data = config.data.model_copy(update={"test": name})
    config = config.model_copy(update={"data": data})
    text = render_all(config, Site(), Surroundings(here, root, here / "python"))["predict"]
    script = tmp_path / "predict.sbatch"
    script.write_text(text, encoding="utf-8")
    check_syntax(script)
    check_by_shellcheck(script)
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    expected = [str(here), "ddp", "1", str(here), name, str(here / "submission.csv")]
    assert done.stdout.splitlines() == expected, done.stderr
    assert not list(tmp_path.rglob("broken"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_sbatch_line_cannot_say_is_refused(name):
    config = config_of()
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": f"/runs/{name}"})})
    with pytest.raises(ConfigError, match=r"run\.dir"):
        render_all(config, Site())


@pytest.mark.parametrize("value", ['gpu"', "gpu\n#SBATCH --exclusive", "", "a\\b"])
@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint"])
def test_a_site_cannot_put_more_into_an_sbatch_line_than_a_value(key, value):
    with pytest.raises(ConfigError, match=f"{key}: .* cannot stand in an #SBATCH line"):
        render_all(config_of(), Site.model_validate({key: value}))


def test_a_working_folder_with_a_line_break_is_refused():
    with pytest.raises(ConfigError, match="the working folder"):
        render_all(config_of(), Site(), Surroundings(Path("/a\nb"), PLACE.root, PLACE.python))


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [(["parallel.world_size=3"], "Leave it auto"), (["parallel.backend=single"], "parallel.backend to ddp, zero2")],
)
def test_ranks_that_the_site_does_not_give_are_refused(overrides, remedy):
    with pytest.raises(ConfigError, match=remedy):
        render_all(config_of(*overrides), Site(nodes=2, gpus_per_node=4))


def test_bash_itself_must_understand_a_script(tmp_path):
    script = tmp_path / "broken.sbatch"
    script.write_text("#!/usr/bin/env bash\nif true; then\n", encoding="utf-8")
    with pytest.raises(ClusterError, match="syntax error"):
        check_syntax(script)


def test_a_job_that_was_put_back_does_not_begin_afresh_again():
    words = ["RUN.yaml", "--fresh", "--set", "run.dir=a b", "--fresh"]
    call = f'. {REPO_ROOT}/slurm/job.sh; drop_option --fresh "$@"; printf \'%s\\n\' "${{arguments[@]}}"'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", call, "job", *words],
        env={"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["RUN.yaml", "--set", "run.dir=a b"]


def test_the_jobs_of_a_chain_differ_in_the_eight_letters_that_squeue_shows():
    for folder in (GOLDEN, REPO_ROOT / "slurm"):
        texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.sbatch")]
        shown = [re.findall(r"(?m)^#SBATCH --job-name=(.{8})", text)[0] for text in texts]
        assert len(shown) == len(set(shown)) == 5, shown
