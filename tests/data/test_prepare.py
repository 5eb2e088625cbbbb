import json
from dataclasses import asdict

import numpy as np
import pytest

from pref_dist.config.schema import DataSection, RunConfig, RunSection
from pref_dist.data.prepare import prepare, write_audit
from pref_dist.data.splits import SplitRequest, list_share_deviations, split_rows
from pref_dist.errors import DataError
from pref_dist.run_dir import RunDir


@pytest.fixture
def build_config(tmp_path):
    def build(**data) -> RunConfig:
        data = {name: str(value) if name in ("train", "valid", "test") else value for name, value in data.items()}
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


def test_several_sources_are_one_set_with_a_weight_for_each(write_csv, record, build_config, wordpiece_folder):
    first = write_csv([record(number) for number in range(60)], "first.csv")
    second = write_csv([record(number, prompt=[f"Another {number}"]) for number in range(30)], "second.csv")
    sources = [{"path": str(first), "weight": 1.0}, {"path": str(second), "weight": 0.25}]
    prepared = prepare(build_config(sources=sources), wordpiece_folder)
    table = prepared.train_table
    assert len(table) == 90
    assert table.weights.tolist() == [1.0] * 60 + [0.25] * 30
    assert sorted([*prepared.train_rows, *prepared.valid_rows]) == list(range(90))
    assert len(set(table.ids.to_pylist())) == 90
    assert table.ids[60].as_py() == "2:1000"
    alone = [prepare(build_config(train=path), wordpiece_folder).train_table for path in (first, second)]
    for row in range(90):
        part, place = (alone[0], row) if row < 60 else (alone[1], row - 60)
        assert table.input_ids(row).tolist() == part.input_ids(place).tolist()
    assert table.describe(65) == {"file": str(second), "row": 6, "id": "1005"}
    assert not any(part.was_built for part in alone), "the sources' own entries are used"
    assert set(prepared.truncation) == {f"train 1: {first}", f"train 2: {second}"}


def test_a_row_falls_on_the_same_side_alone_and_among_other_sources(write_csv, record, build_config, wordpiece_folder):
    first = write_csv(200, "first.csv")
    second = write_csv([record(number, prompt=[f"Another {number}"]) for number in range(50)], "second.csv")
    alone = prepare(build_config(train=first), wordpiece_folder)
    both = prepare(build_config(sources=[{"path": str(first)}, {"path": str(second)}]), wordpiece_folder)
    assert [row for row in both.valid_rows if row < 200] == alone.valid_rows.tolist()


def write_repeats(write_csv, record, name="train.csv"):
    """30 good rows; then row 1 again, row 2 with A and B swapped and the label with them, row 3 with another label."""
    rows = [record(number) for number in range(30)]
    again = rows[0] | {"id": "again"}
    swapped = rows[1] | {
        "id": "swapped",
        "response_a": rows[1]["response_b"],
        "response_b": rows[1]["response_a"],
        "winner_model_a": rows[1]["winner_model_b"],
        "winner_model_b": rows[1]["winner_model_a"],
    }
    contrary = rows[2] | {"id": "contrary", "winner_model_a": "1", "winner_model_b": "0", "winner_tie": "0"}
    return write_csv([*rows, again, swapped, contrary], name)


def test_repeated_and_contradicting_rows_are_found_and_stay_by_default(
    write_csv, record, build_config, wordpiece_folder
):
    prepared = prepare(build_config(train=write_repeats(write_csv, record)), wordpiece_folder)
    assert [(found.kind, found.num_rows, found.policy) for found in prepared.findings] == [
        ("duplicate_pair", 2, "keep"),
        ("contradictory_labels", 2, "keep"),
    ]
    assert [place["row"] for place in prepared.findings[1].first] == [3, 33]
    assert len(prepared.train_rows) + len(prepared.valid_rows) == 33
    assert prepared.set_aside == []


def test_a_policy_sets_them_aside_with_a_line_each(write_csv, record, build_config, wordpiece_folder):
    path = write_repeats(write_csv, record)
    checks = {"duplicate_pair": "set_aside", "contradictory_labels": "set_aside"}
    prepared = prepare(build_config(train=path, checks=checks), wordpiece_folder)
    assert len(prepared.train_rows) + len(prepared.valid_rows) == 29
    assert [(bad["row"], bad["id"], bad["kind"]) for bad in prepared.set_aside] == [
        (3, "1002", "contradictory_labels"),
        (31, "again", "duplicate_pair"),
        (32, "swapped", "duplicate_pair"),
        (33, "contrary", "contradictory_labels"),
    ]
    assert {bad["file"] for bad in prepared.set_aside} == {str(path)}
    gone = {2, 30, 31, 32}
    assert gone.isdisjoint([*prepared.train_rows, *prepared.valid_rows])


def test_a_policy_can_refuse_them(write_csv, record, build_config, wordpiece_folder):
    config = build_config(train=write_repeats(write_csv, record), checks={"contradictory_labels": "fail"})
    with pytest.raises(DataError, match=r"2 training rows: .*row 3, id '1002'.*contradictory_labels=fail"):
        prepare(config, wordpiece_folder)


def test_training_rows_that_will_be_predicted_are_found(write_csv, record, build_config, wordpiece_folder):
    train = write_csv(40)
    test = write_csv([record(7, id="x"), record(99)], "test.csv", columns=("id", "prompt", "response_a", "response_b"))
    kept = prepare(build_config(train=train, test=test), wordpiece_folder)
    assert [(found.kind, found.num_rows) for found in kept.findings] == [("in_test", 1)]
    assert len(kept.train_rows) + len(kept.valid_rows) == 40
    dropped = prepare(build_config(train=train, test=test, checks={"in_test": "set_aside"}), wordpiece_folder)
    assert [(bad["row"], bad["kind"]) for bad in dropped.set_aside] == [(8, "in_test")]


def test_remarks_of_single_rows_obey_their_policy(write_csv, record, build_config, wordpiece_folder):
    rows = [record(number) for number in range(30)] + [record(30, response_a=["same"], response_b=["same"])]
    path = write_csv(rows)
    (found,) = prepare(build_config(train=path), wordpiece_folder).findings
    assert asdict(found) == {
        "source": str(path),
        "kind": "identical_responses",
        "num_rows": 1,
        "policy": "keep",
        "first": [{"file": str(path), "row": 31}],
    }
    checked = prepare(build_config(train=path, checks={"identical_responses": "set_aside"}), wordpiece_folder)
    assert [(bad["row"], bad["kind"]) for bad in checked.set_aside] == [(31, "identical_responses")]
    with pytest.raises(DataError, match=r"data\.checks\.identical_responses=fail"):
        prepare(build_config(train=path, checks={"identical_responses": "fail"}), wordpiece_folder)


@pytest.mark.parametrize("split", ["grouped_hash", "grouped_stratified", "random_stratified"])
def test_folds_part_the_rows(write_csv, build_config, wordpiece_folder, split):
    train = write_csv(120)
    held_out = []
    for fold in range(4):
        prepared = prepare(build_config(train=train, split=split, num_folds=4, fold=fold), wordpiece_folder)
        assert sorted([*prepared.train_rows, *prepared.valid_rows]) == list(range(120))
        held_out += prepared.valid_rows.tolist()
    assert sorted(held_out) == list(range(120))


def test_a_random_split_says_that_prompts_stand_on_both_sides(write_csv, record, build_config, wordpiece_folder):
    path = write_csv([record(number, prompt=[f"Prompt {number // 10}"]) for number in range(200)])
    prepared = prepare(build_config(train=path, split="random_stratified"), wordpiece_folder)
    assert prepared.num_shared_prompts > 0
    assert "prompts stand among the training and the held-out rows" in prepared.warnings[0]
    grouped = prepare(build_config(train=path, valid_fraction=0.3), wordpiece_folder)
    assert grouped.num_shared_prompts == 0


def test_a_hold_out_whose_class_shares_are_off_is_said(write_csv, record, build_config, wordpiece_folder):
    rows = [record(number, winner_model_a=1, winner_model_b=0, winner_tie=0) for number in range(600)]
    rows += [record(number, winner_model_a=0, winner_model_b=0, winner_tie=1) for number in range(600, 900)]
    config = build_config(train=write_csv(rows), valid_fraction=0.3)
    table = prepare(config, wordpiece_folder).train_table
    labels = table.targets.argmax(axis=1)

    def is_off(seed: int) -> bool:
        _, valid = split_rows(table.groups, labels, SplitRequest("grouped_hash", seed, 0.3))
        return bool(list_share_deviations(table.groups, labels, valid))

    unlucky = next(seed for seed in range(3000) if is_off(seed))
    config = config.model_copy(update={"run": RunSection(seed=unlucky)})
    warning = prepare(config, wordpiece_folder).warnings[0]
    assert "A is" in warning
    assert "of the held-out rows" in warning
    assert prepare(config.model_copy(update={"run": RunSection(seed=42)}), wordpiece_folder).warnings == []
