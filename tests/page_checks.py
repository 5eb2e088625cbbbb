"""What every page must be: one file that asks for nothing."""

import html
import re


def check_points_nowhere(page: str) -> None:
    """No address, no script, no reference but to the page itself, and a policy that forbids them."""
    assert "://" not in page
    assert not re.search(r"<(script|iframe|object|embed|img|base|form)\b|@import|\bsrc\s*=|\bon\w+\s*=\s*\"", page)
    targets = re.findall(r"href\s*=\s*[\"']([^\"']*)", page) + re.findall(r"url\(([^)]*)\)", page)
    assert targets
    assert all(target.startswith("#") or target == "data:," for target in targets)
    assert "default-src 'none'" in page


def exact_numbers(page: str) -> list[float]:
    """The unrounded value behind every number that is shown."""
    return [float(value) for value in re.findall(r'<data value="([^"]*)">', page)]


def text_of(page: str) -> str:
    """What a reader sees: no tags, white space collapsed."""
    body = re.sub(r"<style.*?</style>|</?(data|code)\b[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def section_of(page: str, name: str) -> str:
    """Return the HTML of one section."""
    found = re.search(rf'<section id="{name}".*?(?=<section id=|</main>)', page, flags=re.DOTALL)
    assert found is not None
    return found[0]
