import json
from dataclasses import dataclass

import pandas as pd
import pytest

from pref_dist.bench.children import explain, run_child
from pref_dist.bench.growth import GrowthAsked, split_choice
from pref_dist.bench.parts import PlanQuestion
from pref_dist.bench.request import BenchRequest
from pref_dist.bench.rows import draw_rows, repeat_rows, stretch_rows, write_rows
from pref_dist.bench.scaling import Runs, list_efficiencies, read_speeds
from pref_dist.errors import BenchError, ConfigError, DataError


def test_a_sample_depends_on_the_seed_alone_and_has_each_row_once(sample_dir, tmp_path):
    first = draw_rows(sample_dir / "train.csv", 50, tmp_path, seed=1)
    assert first == draw_rows(sample_dir / "train.csv", 50, tmp_path, seed=1)
    assert first != draw_rows(sample_dir / "train.csv", 50, tmp_path, seed=2)
    assert len({row["id"] for row in first}) == 50
    cells = pd.read_csv(sample_dir / "train.csv", dtype=str).set_index("id").loc[first[0]["id"]]
    written = pd.read_csv(write_rows(tmp_path / "rows.csv", first), dtype=str)
    assert written.loc[0, "prompt"] == cells["prompt"]  # as it stands in the file, a list in JSON


def test_too_few_rows_and_a_file_without_the_columns_are_refused_with_the_remedy(sample_dir, tmp_path):
    with pytest.raises(DataError, match=r"has 300 rows, and 301 are needed\. Lower --steps"):
        draw_rows(sample_dir / "train.csv", 301, tmp_path, seed=1)
    with pytest.raises(DataError, match="lacks the columns winner_model_a"):
        draw_rows(sample_dir / "test.csv", 10, tmp_path, seed=1)
    with pytest.raises(DataError, match="nowhere"):
        draw_rows(tmp_path / "nowhere.csv", 10, tmp_path, seed=1)


def test_repeated_rows_have_other_ids_and_other_prompts(sample_dir, tmp_path):
    rows = draw_rows(sample_dir / "train.csv", 3, tmp_path, seed=1)
    repeated = list(repeat_rows(rows, 8))
    assert repeated[:3] == rows
    assert len({row["id"] for row in repeated}) == len({row["prompt"] for row in repeated}) == 8
    assert json.loads(repeated[3]["prompt"])[0] == f"1 {json.loads(rows[0]['prompt'])[0]}"
    assert repeated[3]["response_a"] == rows[0]["response_a"]


def test_stretched_rows_fill_any_cap(sample_dir, tmp_path):
    rows = stretch_rows(draw_rows(sample_dir / "train.csv", 5, tmp_path, seed=1), 7, num_words=300)
    assert len({row["id"] for row in rows}) == 7
    assert all(len(row["response_a"].split()) >= 300 for row in rows)


def test_a_child_that_fails_is_shown_with_its_last_words_and_a_remedy():
    @dataclass(frozen=True)
    class Question:
        no_such_thing: int = 1

    with pytest.raises(BenchError, match=r"(?s)'plan' ended with exit code 1.*no_such_thing.*--peers"):
        run_child("plan", Question())


def test_a_refusal_in_a_child_is_a_sentence_without_a_traceback():
    with pytest.raises(BenchError, match="exit code 6") as caught:
        run_child("plan", PlanQuestion(num_rows=10, rows_per_step=2, token_budget=20, max_tokens=64))
    assert "exceed train.token_budget=20" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_killed_child_and_a_missing_package_get_their_own_remedies():
    assert "signal SIGKILL" in explain("seed_train", -9, "")
    assert "no memory left" in explain("seed_train", -9, "")
    assert "Install what it names" in explain("x", 1, "ModuleNotFoundError: No module named 'datasets'")


def test_unknown_peers_and_shapes_and_too_long_rows_are_refused_before_any_work(tiny_model):
    with pytest.raises(ConfigError, match="--peers names keras"):
        BenchRequest(peers=("seed", "keras"))
    with pytest.raises(ConfigError, match="deberta-v3-xsmall"):
        BenchRequest(shape="deberta-v9")
    with pytest.raises(ConfigError, match="512 positions, fewer than 1,024"):
        BenchRequest(model=str(tiny_model)).check_positions(1024)
    BenchRequest(shape="deberta-v3-small").check_positions(2048)


def test_every_combination_of_settings_is_measured():
    asked = GrowthAsked(BenchRequest(), "rows", each=("model.pooling=cls,mean", "train.token_budget=512,1024"))
    assert len(asked.choices) == 4
    assert ("model.pooling=mean", "train.token_budget=512") in asked.choices
    assert GrowthAsked(BenchRequest(), "rows").choices == [()]
    with pytest.raises(ConfigError, match="--each takes"):
        split_choice("model.pooling")


def test_efficiency_is_against_the_same_back_end_on_one_rank_and_against_a_single_process():
    runs = [
        Runs("ddp", 1, [10.0, 10.0, 40.0], [100.0]), Runs("ddp", 2, [18.0], [190.0]),
        Runs("zero2", 1, [8.0], [100.0]), Runs("zero2", 2, [15.0], [150.0]),
        Runs("zero1", 1, [8.0], [100.0]), Runs("zero1", 2, failure="it ended"),
    ]  # fmt: skip
    found = [(one.backend, one.baseline, one.train, one.evaluate) for one in list_efficiencies(runs)]
    assert found == [
        ("ddp", "ddp", 0.9, 0.95), ("zero2", "zero2", 15 / 16, 0.75), ("zero2", "ddp", 0.75, 0.75),
    ]  # fmt: skip


def test_speeds_are_read_from_the_steps_after_the_warm_ones(tmp_path):
    steps = [{"loss": 1.0, "rows": 8, "seconds": seconds} for seconds in (100.0, 50.0, 2.0, 4.0)]
    evaluations = [{"log_loss": 1.0, "rows_per_second": speed} for speed in (1.0, 30.0, 50.0)]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f"{json.dumps(record)}\n" for record in [*steps, *evaluations]), encoding="utf-8")
    assert read_speeds(log) == (16 / 6, 40.0)
