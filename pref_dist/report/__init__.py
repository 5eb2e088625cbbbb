"""The report: one self-contained page about a run, or about several side by side, from the files in their folders."""

from pref_dist.report.comparison import write_comparison
from pref_dist.report.write import write_report

__all__ = ["write_comparison", "write_report"]
