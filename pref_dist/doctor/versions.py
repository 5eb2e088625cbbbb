"""Python and the packages, against the ranges that the package asks for and the versions that were tested."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata, resources

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pref_dist.doctor.finding import NOT_HERE, Finding, Question

DISTRIBUTION = "pref-dist"
TESTED_FILE = "tested_versions.txt"  # constraints.txt of the repository; a test compares them
# Those of the tested packages whose version changes what a run computes or whether it starts.
LOOKED_AT = (
    "torch", "accelerate", "deepspeed", "transformers", "tokenizers", "huggingface_hub", "datasets", "safetensors",
    "peft", "numpy", "pyarrow", "pandas", "scikit-learn", "pydantic",
)  # fmt: skip
OPTIONAL = ("deepspeed",)


def check_python(question: Question) -> Iterator[Finding]:
    """Compare Python with the range in setup.cfg."""
    found, wanted = platform.python_version(), read_python_range()
    seen = f"{found} ({sys.executable}); {wanted or 'any'} is needed"
    if wanted is None or wanted.contains(found, prereleases=True):
        yield Finding("Python", "ok", seen)
    else:
        yield Finding("Python", "error", seen, f"Make an environment with Python {wanted}: bash launch/install.sh.")


def check_packages(question: Question) -> Iterator[Finding]:
    """Compare each package with its range in setup.cfg and with the tested version."""
    tested, ranges = read_tested_versions(), read_ranges()
    for name in LOOKED_AT:
        is_needed = name not in OPTIONAL or question.asked_backend.startswith("zero")
        yield judge_package(name, find_version(name), ranges.get(canonicalize_name(name)), tested[name], is_needed)


def judge_package(name: str, found: str | None, wanted: SpecifierSet | None, tested: str, is_needed: bool) -> Finding:
    """Say of one package whether it is there, in its range, and the tested version."""
    install = f"pip install {name}=={tested}"
    if found is None:
        seen = f"{NOT_HERE}; {tested} was tested"
        if is_needed:
            return Finding(name, "error", seen, f"{install}, or all of it: bash launch/install.sh.")
        return Finding(name, "ok", f"{seen} (only the zero back-ends need it)")
    if wanted is not None and not wanted.contains(found, prereleases=True):
        return Finding(name, "error", f"{found}, but {wanted} is needed and {tested} was tested", f"{install}.")
    if public(found) != tested:
        return Finding(name, "warning", f"{found}; {tested} was tested", f"{install}, or run bash launch/test.sh.")
    return Finding(name, "ok", f"{found}, as tested")


def public(version: str) -> str:
    """Return a version without its local part, such as +cpu."""
    try:
        return Version(version).public
    except InvalidVersion:
        return version


def find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_python_range() -> SpecifierSet | None:
    """Return the range of Python versions; None where the package is run without being installed."""
    try:
        fields = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    return SpecifierSet(fields["Requires-Python"]) if "Requires-Python" in fields else None


def read_ranges() -> dict[str, SpecifierSet]:
    """Return {canonical name: range} of setup.cfg, extras too; {} where the package is not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = map(Requirement, lines)
    return {canonicalize_name(one.name): one.specifier for one in requirements if str(one.specifier)}


def read_tested_versions() -> dict[str, str]:
    """Return {name: version} as constraints.txt says it."""
    text = resources.files("pref_dist.doctor").joinpath(TESTED_FILE).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return dict(line.split("==", 1) for line in lines)


def collect_versions() -> dict[str, str]:
    """Return the versions that must be the same on all ranks."""
    from pref_dist import __version__

    names = {name: find_version(name) or NOT_HERE for name in LOOKED_AT}
    return {"Python": platform.python_version(), DISTRIBUTION: __version__, **names}
