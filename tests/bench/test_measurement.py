from pathlib import Path

import pytest

from pref_dist.bench.interleave import measure_in_turns, raise_failures
from pref_dist.bench.measurement import Column, Measurement, Ratio, pair_columns
from pref_dist.errors import BenchError


def measured(seconds: float, **changes: object) -> Measurement:
    values = {
        "rows": 40, "steps": 5, "tokens": 750, "padded_tokens": 1000, "seconds": seconds, "linear_flops": 6e9,
        "matmul_flops_per_second": 3e9, "peak_bytes": 10**9, "precision": "fp32", "device": "cpu", "threads": 2,
    }  # fmt: skip
    return Measurement(**(values | changes))


def test_figures_are_what_the_counts_say():
    found = measured(4.0, data_seconds=0.5)
    assert found.rows_per_second == 10.0
    assert found.tokens_per_second == 187.5
    assert found.padding_share == 0.25
    assert found.linear_flops_per_second == 1.5e9
    assert found.utilisation == 0.5
    assert found.data_share == 0.125
    assert measured(4.0).data_share is None


def test_a_ratio_is_of_medians_and_not_a_mean_of_ratios():
    own = Column("own", 0.0, 8, [measured(seconds) for seconds in (1.0, 2.0, 10.0)])
    peer = Column("best", 0.0, 8, [measured(seconds) for seconds in (8.0, 4.0, 5.0)])
    assert Ratio(own, peer).value == pytest.approx((40 / 2) / (40 / 5))
    assert own.spread("rows_per_second") == (4.0, 40.0)


def test_a_ratio_without_a_measurement_is_none_and_never_a_number():
    assert Ratio(Column("own", 0.0, 8, [measured(1.0)]), Column("seed", 0.1, 8)).value is None


def test_ours_is_compared_with_best_at_its_dropout_and_with_the_seed_at_every_one():
    own = [Column("own", dropout, rows) for rows in (8, 32) for dropout in (0.0, 0.1)]
    peers = [Column("seed", 0.1, 8), Column("best", 0.0, 8), Column("best", 0.1, 8), Column("seed", 0.1, 32)]
    absent = Column("sentence-transformers", 0.1, 8, is_absent=True)
    pairs = pair_columns([*own, *peers, absent], equal_dropout=("best",))
    found = {(pair.own.dropout, pair.peer.name, pair.peer.rows_per_step) for pair in pairs}
    assert found == {
        (0.0, "seed, dropout 0.1", 8), (0.1, "seed, dropout 0.1", 8), (0.0, "best, dropout 0", 8),
        (0.1, "best, dropout 0.1", 8), (0.0, "seed, dropout 0.1", 32), (0.1, "seed, dropout 0.1", 32),
    }  # fmt: skip


def test_pipelines_take_turns_and_one_that_fails_is_named_while_the_others_go_on(tmp_path: Path):
    columns = [Column("own", 0.0, 8), Column("seed", 0.1, 8), Column("best", 0.0, 8)]
    order, said = [], []

    def measure(column: Column, folder: Path) -> dict[str, object]:
        order.append(column.pipeline)
        assert list(folder.iterdir()) == []
        (folder / "left over").write_text("x", encoding="utf-8")
        if column.pipeline == "seed":
            raise BenchError("it said: no such layer")
        return vars(measured(1.0))

    measure_in_turns(columns, 2, measure, tmp_path, said.append)
    assert order == ["own", "seed", "best", "own", "best"]
    assert [len(column.measurements) for column in columns] == [2, 0, 2]
    assert any("seed" in line and "FAILED" in line for line in said)
    assert columns[1].to_json()["failure"] == "it said: no such layer"
    with pytest.raises(BenchError, match=r"(?s)1 of 3.*seed, dropout 0\.1.*no such layer"):
        raise_failures(columns)


def test_the_json_of_a_column_holds_median_and_spread_of_every_figure():
    found = Column("own", 0.1, 8, [measured(seconds) for seconds in (1.0, 2.0, 4.0)]).to_json()
    assert found["rows"] == 40
    assert found["repeats"] == 3
    assert found["rows_per_second"] == {"median": 20.0, "spread": (10.0, 40.0)}
    assert found["peak_cuda_bytes"] is None
    assert not found["not_installed"]
