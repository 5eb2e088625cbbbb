"""Which folder the token caches are in."""

import os
from pathlib import Path

from pref_dist.config.schema import RunConfig


def default_cache_dir(config: RunConfig) -> Path:
    """Return `data.cache_dir`, else $PREF_DIST_CACHE_DIR, else ~/.cache/pref_dist."""
    return find_cache_dir(config.data.cache_dir)


def find_cache_dir(named: str | None) -> Path:
    return Path(named or os.environ.get("PREF_DIST_CACHE_DIR") or "~/.cache/pref_dist").expanduser()
