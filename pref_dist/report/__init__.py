"""The report: one self-contained page about a run, from the files in its folder."""

from pref_dist.report.page import write_report

__all__ = ["write_report"]
