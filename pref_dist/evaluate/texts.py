"""The texts of rows whose tokens stand in a table, read from their sources again."""

from collections.abc import Iterator

from pref_dist.config.schema import DataSection
from pref_dist.data.cache import digest_files
from pref_dist.data.data_files import find_files
from pref_dist.data.ingest import open_source
from pref_dist.data.plan import Rows
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.data.validate import RowChecker
from pref_dist.errors import DataError
from pref_dist.findings import Policies


def pick(settings: DataSection, table: TokenTable, rows: Rows) -> list[Row]:
    """Return the rows at these positions (rising) as texts; see `iterate_texts`."""
    return list(iterate_texts(settings, table, rows))


def iterate_texts(settings: DataSection, table: TokenTable, rows: Rows) -> Iterator[Row]:
    """Yield the rows at these positions (rising), reading each source as a stream.

    Raises DataError where a source is no longer what its tokens were made of: once it has been read.
    """
    policies = Policies(settings.bad_rows, settings.checks)
    for start, part in table.parts:
        positions = rows[(rows >= start) & (rows < start + len(part))] - start
        if not len(positions):
            continue
        wanted, num_found = set(part.row_numbers[positions].tolist()), 0
        for row in RowChecker(open_source(part.request), policies).iterate_rows():
            if row.row in wanted:
                num_found += 1
                yield row
        if digest_files(find_files(part.request.path)) != part.manifest["key_parts"]["files"]:
            raise DataError(f"{part.source} was changed while it was in use. Start the command again.")
        assert num_found == len(wanted)
