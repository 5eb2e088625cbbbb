import json

import numpy as np
import pytest

from pref_dist.config.schema import DataSection, RunConfig, RunSection
from pref_dist.data.prepare import prepare, write_audit
from pref_dist.errors import DataError
from pref_dist.run_dir import RunDir


@pytest.fixture
def build_config(tmp_path):
    def build(**data) -> RunConfig:
        data = {name: str(value) if name in ("train", "valid") else value for name, value in data.items()}
        section = DataSection(max_tokens=96, cache_dir=str(tmp_path / "cache"), **data)
        return RunConfig(run=RunSection(dir=str(tmp_path / "run")), data=section)

    return build


def test_rows_are_held_out_by_whole_prompts(write_csv, record, build_config, wordpiece_folder):
    path = write_csv([record(number, prompt=[f"Prompt {number // 4}!"]) for number in range(400)])
    prepared = prepare(build_config(train=path, valid_fraction=0.25), wordpiece_folder)
    assert prepared.valid_table is prepared.train_table
    assert sorted([*prepared.train_rows, *prepared.valid_rows]) == list(range(400))
    assert prepared.num_shared_prompts == 0
    assert prepared.train.num_rows == 4 * prepared.train.num_prompts == len(prepared.train_rows)
    assert prepared.train.num_prompts + prepared.valid.num_prompts == 100
    assert abs(prepared.valid.num_prompts - 25) < 4 * 4.4


def test_the_summary_agrees_with_an_independent_count(write_csv, build_config, wordpiece_folder):
    prepared = prepare(build_config(train=write_csv(90)), wordpiece_folder)
    winners = prepared.train_table.targets[prepared.train_rows].argmax(axis=1)
    for index, share in enumerate(prepared.train.class_shares.values()):
        assert share == pytest.approx((winners == index).mean())
    tokens = [len(prepared.train_table.input_ids(row)) for row in prepared.valid_rows]
    assert prepared.valid.num_tokens == sum(tokens)


def test_a_valid_file_of_its_own_is_used_whole(write_csv, build_config, wordpiece_folder):
    config = build_config(train=write_csv(30), valid=write_csv(10, name="valid.csv"))
    prepared = prepare(config, wordpiece_folder)
    assert prepared.train_rows.tolist() == list(range(30))
    assert prepared.valid_rows.tolist() == list(range(10))
    assert prepared.num_shared_prompts == 10
    assert set(prepared.truncation) == {"train", "valid"}


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_starts(write_csv, build_config, wordpiece_folder):
    config = build_config(train=write_csv(200))
    other_seed = config.model_copy(update={"run": RunSection(seed=1)})
    first, again, other = (prepare(one, wordpiece_folder) for one in (config, config, other_seed))
    assert first.valid_rows.tolist() == again.valid_rows.tolist() != other.valid_rows.tolist()
    assert first.train_table.was_built
    assert not other.train_table.was_built


@pytest.mark.parametrize("setting", ["train", "valid"])
def test_an_unlabelled_file_is_an_error_that_names_the_setting(write_csv, build_config, wordpiece_folder, setting):
    files = {"train": write_csv(9), "valid": write_csv(9, name="valid.csv")}
    files[setting] = write_csv(9, "unlabelled.csv", columns=("id", "prompt", "response_a", "response_b"))
    with pytest.raises(DataError, match=f"data.{setting}=.*unlabelled.csv has no labels"):
        prepare(build_config(**files), wordpiece_folder)


def test_the_audit_lies_in_the_run_folder(write_csv, record, build_config, wordpiece_folder, tmp_path):
    good = [record(number) for number in range(40)]
    train = write_csv([*good, record(40, id="", prompt=["日本語"]), record(41, prompt="[1]")])
    valid = write_csv([*good, record(42, winner_tie=2)], "valid.csv")
    prepared = prepare(build_config(train=train, valid=valid), wordpiece_folder)
    run_dir = RunDir(tmp_path / "run")
    write_audit(run_dir, prepared)
    lines = [json.loads(line) for line in run_dir.rows_set_aside.read_text(encoding="utf-8").splitlines()]
    assert [(line["file"], line["row"], line["kind"]) for line in lines] == [
        (str(train), 41, "empty_id"),
        (str(train), 42, "bad_json"),
        (str(valid), 41, "winner_not_one_hot"),
    ]
    assert set(lines[0]) == {"file", "row", "id", "kind", "detail"}
    truncation = json.loads(run_dir.truncation.read_text())
    assert truncation["train"]["num_rows"] == 40
    assert truncation["valid"]["rows_cut"] == int(
        np.any(prepared.valid_table.full_lengths != prepared.valid_table.kept_lengths, axis=1).sum()
    )


def test_a_run_without_bad_rows_leaves_an_empty_list_of_them(write_csv, build_config, wordpiece_folder, tmp_path):
    write_audit(RunDir(tmp_path / "run"), prepare(build_config(train=write_csv(60)), wordpiece_folder))
    assert (tmp_path / "run" / "rows_set_aside.jsonl").read_text() == ""
