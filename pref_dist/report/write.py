"""Writes the page about one folder: a run, or folds."""

from pathlib import Path

from pref_dist.files import StrPath, as_path
from pref_dist.report.folds_page import render_folds_page
from pref_dist.report.page import render_page, write_page
from pref_dist.report.run_record import read_run_record
from pref_dist.run_dir import RunDir


def write_report(run_folder: StrPath, out: StrPath | None = None) -> Path:
    """Write the page about a run, or about the folds in a folder, by default to RUN_DIR/report.html; return its path.

    The run may be unfinished: the page shows what is there. The same folder gives the same bytes on the
    same machine. Raises ConfigError if the folder holds no run, CheckpointError if a file in it is damaged.
    """
    run_dir = RunDir(Path(run_folder))
    is_of_folds = run_dir.folds.is_file() and not run_dir.config.is_file()
    page = render_folds_page(run_dir.root) if is_of_folds else render_page(read_run_record(run_dir.root))
    path = as_path(out) or run_dir.report
    write_page(path, page)
    return path
