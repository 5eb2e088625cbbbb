"""Links between documents lead somewhere; files, settings and keys that they name are there."""

import re

import pytest

from pref_dist.config.load import load_config
from tests.documents import configuration
from tests.documents.blocks import DOCUMENTS, ROOT, name_of

PAGES = (*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "EXPERIMENTS.md", ROOT / "CHANGELOG.md")
FLAGS = re.MULTILINE | re.DOTALL
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A path with a folder of this repository in front.
NAMED = re.compile(r"(?<![\w/.*-])((?:launch|slurm|configs|docs|tests|pref_dist|\.ci)/[\w./-]*\w)(?![\w*{-])")


def anchors_of(text: str) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_or_a_heading(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors_of(found.read_text(encoding="utf-8")), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_file_that_is_named_is_there(page):
    """The changelog and the log of experiments tell of files that were."""
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    made = {"configs/sites/mine.yaml"}  # a user's copy of the example
    missing = {name for name in named - made if not (ROOT / name).exists()}
    assert not missing, f"{name_of(page)} names {sorted(missing)}"


def test_the_readme_leads_to_every_document():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name_of(path) for path in DOCUMENTS[1:] if f"({name_of(path)}" not in text]


def test_pictures_are_small():
    pictures = sorted((ROOT / "docs").rglob("*.png"))
    assert not [name_of(path) for path in pictures if path.stat().st_size > 300_000]


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_the_settings_that_a_document_shows_are_a_run_config(page, tmp_path):
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), FLAGS)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load_config(path)


def test_the_configuration_reference_is_current():
    """`python -m tests.documents.configuration > docs/configuration.md` writes it anew."""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration.render()
