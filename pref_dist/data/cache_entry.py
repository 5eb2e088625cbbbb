"""One entry of the token cache on disk: its files, its manifest, and whether they are as they were written.

CACHE_DIR/KEY/  manifest.json  rows-00000.arrow ...  set_aside.jsonl  truncation.json
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pref_dist.errors import DataError
from pref_dist.files import describe_file

MANIFEST = "manifest.json"
SET_ASIDE = "set_aside.jsonl"
TRUNCATION = "truncation.json"
LAYOUT_KEY = "layout_version"  # of the parts of a key, the one that says nothing of the tokens


def check_entry(folder: Path) -> dict[str, Any]:
    """Read a whole cache entry and compare every digest; return its manifest.

    Raises DataError that names the first file that is missing or not as it was written.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    if digest_json(manifest["key_parts"]) != folder.name:
        raise DataError(explain_damage(folder, MANIFEST, "belongs to another entry"))
    for name, written in manifest["files"].items():
        if describe_file(folder / name) != written:
            raise DataError(explain_damage(folder, name, "is not as it was written (its sha256 differs)"))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return an entry's manifest. Raises DataError if it is missing or damaged."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = dict(manifest).pop("manifest_sha256")
        del manifest["manifest_sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(explain_damage(folder, MANIFEST, f"cannot be read ({error})")) from error
    if digest_json(manifest) != expected:
        raise DataError(explain_damage(folder, MANIFEST, "is not as it was written (its sha256 differs)"))
    return manifest


def check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise DataError if a file of the entry is missing or has another size."""
    for name, written in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(explain_damage(folder, name, "is missing"))
        if path.stat().st_size != written["bytes"]:
            what = f"has {path.stat().st_size:,} bytes instead of {written['bytes']:,}"
            raise DataError(explain_damage(folder, name, what))


def digest_tokens(manifest: dict[str, Any]) -> str:
    """Return what names an entry's tokens, whatever else it holds: runs are bound to it."""
    return digest_json({name: part for name, part in manifest["key_parts"].items() if name != LAYOUT_KEY})


def explain_damage(folder: Path, name: str, what: str) -> str:
    return f"The token cache is damaged: {folder / name} {what}. Delete the folder {folder}; it will be built again."


def digest_json(value: Any) -> str:
    """Return the sha256 of a value's JSON, which does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
