"""A wheel, built from the source distribution and installed into an empty environment, works from any folder."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from types import SimpleNamespace

import pytest

import pref_dist

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
           "EXPERIMENTS.md", "constraints.txt")  # fmt: skip
FOLDERS = ("pref_dist", "configs", "docs", "examples", "launch", "slurm")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def run(command, folder, **variables):
    """Run a command without this checkout on its path; return what it said."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build(folder):
    """Return the paths of sdist and wheel; nothing is fetched."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copyfile(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-c", BUILD, "build_sdist", folder], source)
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    run([sys.executable, "-c", BUILD, "build_wheel", folder], folder / sdist.name.removesuffix(".tar.gz"))
    return sdist, next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An environment that holds the wheel, and sees the other packages of this one."""
    folder = tmp_path_factory.mktemp("packaging")
    sdist, wheel = build(folder)
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    installed = next((environment / "lib").glob("python*/site-packages"))
    (installed / "others.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n", encoding="utf-8")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return SimpleNamespace(sdist=sdist, wheel=wheel, program=environment / "bin" / "pref-dist", python=python,
                           elsewhere=elsewhere, installed=installed)  # fmt: skip


def test_the_wheel_holds_what_the_package_reads_and_nothing_else(world):
    with zipfile.ZipFile(world.wheel) as file:
        names = set(file.namelist())
        metadata = Parser().parsestr(file.read(next(n for n in names if n.endswith("METADATA"))).decode())
    inside = {str(path.relative_to(ROOT)) for path in (ROOT / "pref_dist").rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    recipes = {f"pref_dist/recipes/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.*")}
    own = {name for name in names if not name.startswith("pref_dist-")}
    assert own == {name for name in inside if not name.startswith("pref_dist/recipes")} | recipes
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert metadata["Version"] == pref_dist.__version__
    assert metadata["License-Expression"] == "MIT" or metadata["License"] == "MIT"
    assert set(metadata.get_all("Provides-Extra")) == {"deepspeed", "trackers", "gpu", "demo", "dev"}
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_source_distribution_holds_recipes_launchers_and_documents(world):
    with tarfile.open(world.sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"launch/node.sh", "slurm/job.sh", "configs/demo.yaml", "docs/data.md", "LICENSE"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_program_works_from_another_folder(world, tiny_model):
    place = run([world.python, "-c", "import pref_dist; print(pref_dist.__file__)"], world.elsewhere)
    assert Path(place.strip()).is_relative_to(world.installed)
    assert pref_dist.__version__ in run([world.program, "--version"], world.elsewhere)
    run([world.program, "sample", "data", "--num-train", "60", "--num-test", "10"], world.elsewhere)
    run([world.program, "inspect", "data/train.csv"], world.elsewhere)
    assert (world.elsewhere / "train_inspection.html").is_file()
    recipe = world.installed / "pref_dist" / "recipes" / "demo.yaml"
    changes = ["data.train=data/train.csv", f"model.name={tiny_model}", "train.max_steps=2", "data.cache_dir=cache",
               "run.dir=run", "data.num_workers=0"]  # fmt: skip
    sets = [word for change in changes for word in ("--set", change)]
    said = run([world.program, "train", recipe, *sets], world.elsewhere, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    assert "finished at step 2" in said
    run([world.program, "report", "run"], world.elsewhere)
    assert (world.elsewhere / "run" / "report.html").is_file()


def test_the_version_stands_in_one_place():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    assert settings["metadata"]["version"] == "attr: pref_dist.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", pref_dist.__version__)
