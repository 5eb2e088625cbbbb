"""What every page must be: one file that asks for nothing."""

import re


def check_points_nowhere(page: str) -> None:
    """No address, no script, no reference but to the page itself, and a policy that forbids them."""
    assert "://" not in page
    assert not re.search(r"<(script|iframe|object|embed|img|base|form)\b|@import|\bsrc\s*=|\bon\w+\s*=\s*\"", page)
    targets = re.findall(r"href\s*=\s*[\"']([^\"']*)", page) + re.findall(r"url\(([^)]*)\)", page)
    assert targets
    assert all(target.startswith("#") or target == "data:," for target in targets)
    assert "default-src 'none'" in page
