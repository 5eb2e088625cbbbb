"""The measured table in the docs."""

from tests.ranks.launch_ranks import REPO_ROOT


def test_the_summary_in_the_readme_is_that_of_the_measured_page():
    page = (REPO_ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    readme = [line.strip() for line in (REPO_ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    summary = [line for line in page.split("## ")[0].splitlines() if line.startswith("|")]
    assert len(summary) > 8
    place = readme.index(summary[0])
    assert readme[place : place + len(summary)] == summary


def test_every_measured_cell_is_there():
    page = (REPO_ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    for backend in ("ddp", "zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2"):
        assert page.count(f"| {backend} | ") >= 4, backend
