"""The measured table in the docs."""

from tests.parity.kinds import KINDS
from tests.parity.measure import Difference
from tests.parity.table import render_page
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


def test_a_precision_that_the_processor_has_not_is_said_to_be_missing():
    cells = {kind: Difference(0.0, 0.0, 0.0) for kind in KINDS if kind.precision != "fp16"}
    page = render_page({("ddp", 2): cells})
    assert page.endswith("## fp16\n\nNot measured: the processor of that machine does not compute in it.\n")
    assert page.count("Not measured") == 1
