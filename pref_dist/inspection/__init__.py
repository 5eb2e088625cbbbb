"""The inspection: what a data set holds, as figures, as a table and as one self-contained page."""

from pref_dist.inspection.describe import Inspection, inspect_data
from pref_dist.inspection.page import write_page
from pref_dist.inspection.table import open_console, print_inspection

__all__ = ["Inspection", "inspect_data", "open_console", "print_inspection", "write_page"]
