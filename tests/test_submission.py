import numpy as np
import pandas as pd
import pytest

from pref_dist.errors import DataError
from pref_dist.submission import read_probabilities, write_submission

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
