import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pref_dist.errors import DataError
from pref_dist.submission import ROWS_A_PIECE, find_repeated, read_probabilities, write_submission

GOOD = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])


def test_a_submission_has_the_columns_the_order_and_the_numbers(tmp_path):
    write_submission(tmp_path / "deep" / "submission.csv", ["007", "b"], GOOD)
    table = pd.read_csv(tmp_path / "deep" / "submission.csv", dtype={"id": str})
    assert list(table.columns) == ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    assert table["id"].tolist() == ["007", "b"]
    assert np.array_equal(table.iloc[:, 1:].to_numpy(), GOOD)
    assert np.array_equal(read_probabilities(tmp_path / "deep" / "submission.csv").loc["b"].to_numpy(), GOOD[1])


@pytest.mark.parametrize(
    ("ids", "chances", "message"),
    [
        (["a", "a"], GOOD, "1 ids twice .first: a"),
        (["a"], GOOD, "1 ids needs"),
        (["a", "b"], GOOD * 1.1, "2 rows are no probabilities .first: id a"),
        (["a", "b"], np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]), "1 rows are no probabilities"),
        (["a", "b"], np.array([[0.2, 0.3, 0.5], [np.nan, 0.5, 0.5]]), "first: id b"),
    ],
)
def test_what_is_no_submission_is_not_written(tmp_path, ids, chances, message):
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path / "submission.csv", ids, chances)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_submission_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("id,winner_a\n1,0.5\n")
    with pytest.raises(DataError, match=r"x\.csv lacks the columns \['winner_model_a'"):
        read_probabilities(tmp_path / "x.csv")


@pytest.mark.parametrize("cells", [",0.5,0.5", "abc,0.5,0.5", "7,-6.5,0.5", "0.5,0.5,0.5", "nan,0.5,0.5", "inf,0,0"])
def test_a_row_that_holds_no_probabilities_is_named(tmp_path, cells):
    path = tmp_path / "x.csv"
    path.write_text(f"id,winner_model_a,winner_model_b,winner_tie\na,0.333,0.333,0.333\nb,{cells}\n")
    with pytest.raises(DataError, match=r"x\.csv: 1 of 2 rows are no probabilities .*first: id b") as caught:
        read_probabilities(path)
    assert cells.replace(",", ", ") in str(caught.value)


def test_ids_are_texts_also_where_they_look_like_a_missing_value_or_a_number(tmp_path):
    ids = ["NA", "null", "", "007"]
    write_submission(tmp_path / "x.csv", ids, np.full((4, 3), 1 / 3))
    assert read_probabilities(tmp_path / "x.csv").index.tolist() == ids


def test_pieces_leave_no_seam(tmp_path):
    ids = [f'{number}, "quoted"' for number in range(ROWS_A_PIECE + 3)]
    chances = np.random.default_rng(0).dirichlet(np.ones(3), len(ids))
    write_submission(tmp_path / "pieces.csv", ids, chances)
    whole = pd.DataFrame(chances, columns=["winner_model_a", "winner_model_b", "winner_tie"])
    whole.insert(0, "id", ids)
    whole.to_csv(tmp_path / "whole.csv", index=False)
    assert (tmp_path / "pieces.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_id_that_stands_twice_is_found_across_pieces_and_named_each_time():
    ids = [str(number) for number in range(2 * ROWS_A_PIECE)]
    assert find_repeated(pa.chunked_array([pa.array(ids)])) == []
    ids[-1] = ids[-2] = ids[5]
    assert find_repeated(pa.chunked_array([pa.array(ids)])) == ["5", "5"]


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from pref_dist.submission import write_submission
rows = int(sys.argv[1])
ids = pa.chunked_array([pa.array([f"row {n}" for n in range(start, start + 1000)], pa.large_string())
                        for start in range(0, rows, 1000)])
chances = np.full((rows, 3), 1 / 3)
write_submission(Path(sys.argv[2]), ids, chances)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_five_times_the_rows_take_but_their_arrays_of_memory(tmp_path):
    """Of a row: 18 bytes of id, 24 of probabilities, and what two sorts and a mask need; no Python object."""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", PEAK, str(rows), str(tmp_path / "out.csv")]))
        for rows in (70_000, 350_000)
    ]
    assert (peaks[1] - peaks[0]) / 280_000 < 100
