"""Tokens of the environment are in nothing that a run leaves or says, and nobody else reads what is temporary."""

import os
import stat

import pref_dist
from pref_dist.cluster.scripts import plan_jobs, render_script
from pref_dist.cluster.site import load_site
from pref_dist.cluster.submit import find_surroundings, settle, write_folder
from pref_dist.config.load import load_config
from pref_dist.doctor.finding import Question
from pref_dist.doctor.hub import check_hub, check_proxies
from pref_dist.files import write_bytes
from tests.security.place import SECRETS, Place, read_all, refusal


def assert_no_secret(content: bytes) -> None:
    for name, value in SECRETS.items():
        assert value.encode() not in content, f"{name} stands there"


def tokens_in_what_a_run_leaves(place: Place) -> None:
    """Its config, logs, checkpoints and trackers' files; it was trained with the tokens in its environment."""
    content = read_all([place.run])
    assert b"log_loss" in content
    assert_no_secret(content)


def tokens_in_what_a_run_says(place: Place) -> None:
    assert "log loss" in place.said
    assert_no_secret(place.said.encode())


def tokens_in_reports_and_exports(place: Place) -> None:
    os.environ.update(SECRETS)
    try:
        pref_dist.write_report(place.run, place.folder / "report.html")
        pref_dist.export_run(place.run, place.folder / "exported")
    finally:
        for name in SECRETS:
            del os.environ[name]
    assert_no_secret(read_all([place.folder]))


SITE = "partition: gpu\nnodes: 1\ngpus_per_node: 1\ncpus_per_node: 4\ntime: '01:00:00'\n"


def write_scripts(place: Place, setup: str) -> bytes:
    """Write the jobs of a run as `slurm submit` does, and return all of it. Raises ConfigError for the site."""
    site = place.folder / "site.yaml"
    site.write_text(f"{SITE}setup:\n  - {setup}\n")
    loaded = load_site(site)
    site.unlink()
    config = settle(load_config(place.write_config()), None)
    folder = place.folder / "run" / "slurm"
    jobs = plan_jobs(config, loaded, folder / "run.yaml")
    write_folder(
        folder, config, loaded, {job.name: render_script(job, config, loaded, find_surroundings()) for job in jobs}
    )
    return read_all([folder])


def tokens_in_scripts_for_slurm(place: Place) -> None:
    os.environ.update(SECRETS)
    try:
        content = write_scripts(place, "module load cuda")
    finally:
        for name in SECRETS:
            del os.environ[name]
    assert b"module load cuda" in content
    assert_no_secret(content)


def a_token_that_a_site_would_write_into_each_script(place: Place) -> None:
    for line in ("export HF_TOKEN={}", "HF_TOKEN='{}'", "export WANDB_API_KEY={} X=1", "export MY_PASSWORD={}",
                 "huggingface-cli login --token {}", "wandb login {}"):  # fmt: skip
        setup = f'"{line.format(SECRETS["HF_TOKEN"])}"'
        said = refusal(lambda setup=setup: write_scripts(place, setup))
        assert "source it" in said
        assert_no_secret(said.encode())
    assert not (place.folder / "run" / "slurm").exists()
    assert b"cat ~/.my_token" in write_scripts(place, '"export HF_TOKEN=$(cat ~/.my_token)"')
    for line in ("export TOKENIZERS_PARALLELISM=false", "export MAX_TOKENS=1024", "export SECRETS_DIR=/x",
                 "export HF_TOKEN_PATH=~/.token", "export HF_HUB_DISABLE_IMPLICIT_TOKEN=1"):  # fmt: skip
        assert line.encode() in write_scripts(place, f'"{line}"')


def passwords_of_proxies_and_mirrors_in_a_diagnosis(place: Place) -> None:
    variables = {"HTTPS_PROXY": "http://me:pa55word@proxy.invalid:1", "HF_ENDPOINT": "http://me:pa55word@127.0.0.1:9"}
    offline = os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.update(variables)
    try:
        said = " ".join(str(finding) for check in (check_proxies, check_hub) for finding in check(Question()))
    finally:
        for name in variables:
            del os.environ[name]
        if offline is not None:
            os.environ["HF_HUB_OFFLINE"] = offline
    assert "proxy.invalid" in said
    assert "127.0.0.1" in said
    assert "pa55word" not in said


def files_that_others_may_read(place: Place) -> None:
    """With a strict umask nothing is readable for others, also not for the moment before it has its name."""
    modes = []
    real, before = os.replace, os.umask(0o077)

    def replace(source, target):
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        real(source, target)

    os.replace = replace
    try:
        write_bytes(place.folder / "a.json", b"x")
        pref_dist.export_run(place.run, place.folder / "exported")
        pref_dist.predict_rows(place.run, place.sample / "test.csv", place.folder / "submission.csv")
        pref_dist.write_report(place.run, place.folder / "report.html")
    finally:
        os.replace = real
        os.umask(before)
    assert len(modes) >= 4
    assert not [oct(mode) for mode in modes if mode & 0o077]
    left = [path for path in place.folder.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert left == []
