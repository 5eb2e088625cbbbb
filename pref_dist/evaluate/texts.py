"""The texts of rows whose tokens stand in a table, read from their sources again."""

from pref_dist.config.schema import DataSection
from pref_dist.data.plan import Rows
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.data.validate import read_checked_rows


def pick(settings: DataSection, table: TokenTable, rows: Rows) -> list[Row]:
    """Return the rows at these positions (rising) as texts, read from their sources again."""
    picked: list[Row] = []
    for start, part in table.parts:
        positions = rows[(rows >= start) & (rows < start + len(part))] - start
        checked = read_checked_rows(part.request, settings.bad_rows, settings.checks).rows
        by_number = {row.row: row for row in checked}
        picked += [by_number[int(number)] for number in part.row_numbers[positions]]
    return picked
