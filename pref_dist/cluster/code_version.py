"""Which code a job will run: the package's version, and the commit where it is a git checkout."""

import subprocess
from pathlib import Path
from typing import Any

import pref_dist

CODE_ROOT = Path(pref_dist.__file__).parents[1]


def read_code_version() -> dict[str, Any]:
    """Return {version, root, commit, is_dirty}; commit and is_dirty are null outside a checkout."""
    status = ask_git("status", "--porcelain")
    return {
        "version": pref_dist.__version__,
        "root": str(CODE_ROOT),
        "commit": ask_git("rev-parse", "HEAD"),
        "is_dirty": None if status is None else bool(status),
    }


def ask_git(*arguments: str) -> str | None:
    command = ("git", "-C", str(CODE_ROOT), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
