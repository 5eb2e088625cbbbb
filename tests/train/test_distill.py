"""Distillation: a teacher's logits reach the right rows in the right order, and none that it has learnt from."""

import dataclasses

import numpy as np
import pytest
import torch

from pref_dist.config.load import load_config, with_values
from pref_dist.config.train_section import DistillSection
from pref_dist.data.prepare import prepare
from pref_dist.errors import DataError
from pref_dist.evaluate.logits_file import Origin, RowLogits, read_logits, write_logits
from pref_dist.losses import cross_entropy, distillation_loss, smooth_targets
from pref_dist.train.distill import find_teacher
from pref_dist.train.resume import flatten
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import largest_loss_difference, read_losses, run_verb


@pytest.fixture
def prepared(write_run, tiny_model):
    run_yaml, _ = write_run("student")
    return prepare(load_config(run_yaml), tiny_model)


@pytest.fixture
def teacher_file(tmp_path, prepared):
    """Return a function that writes logits of the training rows, changed by its arguments, and what they were."""

    def write(name="teacher.parquet", held_out=None, keep=None, **origin_changes):
        table, rows = prepared.train_table, prepared.train_rows
        rows = rows if keep is None else rows[keep]
        logits = np.random.default_rng(0).normal(size=(len(rows), 3))
        origin = Origin(
            groups=table.groups[rows],
            pairs=table.pairs[rows],
            is_mirrored=table.is_mirrored[rows],
            held_out=np.ones(len(rows), np.bool_) if held_out is None else held_out,
        )
        origin = dataclasses.replace(origin, **origin_changes)
        shuffled = np.random.default_rng(1).permutation(len(rows))
        origin = Origin(*(getattr(origin, field.name)[shuffled] for field in dataclasses.fields(origin)))
        ids = [f"other-{number}" for number in range(len(rows))]  # rows are known by their text
        path = tmp_path / name
        write_logits(path, RowLogits(ids, logits[shuffled], None, origin))
        return path, logits

    return write


def settings(path, **others):
    return DistillSection(logits=str(path), **others)


def test_rows_find_their_logits_by_text_wherever_these_stand(prepared, teacher_file):
    path, logits = teacher_file()
    teacher = find_teacher(settings(path), prepared)
    assert np.array_equal(teacher.logits[prepared.train_rows], logits)
    others = np.setdiff1d(np.arange(len(prepared.train_table)), prepared.train_rows)
    assert np.isnan(teacher.logits[others]).all()


def test_logits_of_a_row_in_the_other_order_change_places(prepared, teacher_file):
    mirrored = ~prepared.train_table.is_mirrored[prepared.train_rows]
    path, logits = teacher_file(is_mirrored=mirrored)
    found = find_teacher(settings(path), prepared).logits[prepared.train_rows]
    assert np.array_equal(found, logits[:, [1, 0, 2]])


def test_a_row_that_the_teacher_has_learnt_from_is_refused(prepared, teacher_file):
    held_out = np.ones(len(prepared.train_rows), np.bool_)
    held_out[[3, 5]] = False
    path, _ = teacher_file(held_out=held_out)
    with pytest.raises(DataError, match=rf"learnt from 2 of {len(held_out)} training rows \(first: row .*--folds"):
        find_teacher(settings(path), prepared)


def test_a_training_row_without_logits_is_refused(prepared, teacher_file):
    path, _ = teacher_file(keep=slice(4, None))
    with pytest.raises(DataError, match=r"no logits of 4 of \d+ training rows \(first: row .*--folds"):
        find_teacher(settings(path), prepared)


def test_a_file_that_does_not_know_its_rows_is_refused(prepared, tmp_path):
    path = tmp_path / "elsewhere.parquet"
    write_logits(path, RowLogits(["1"], np.zeros((1, 3)), None))
    with pytest.raises(DataError, match="lacks the columns group, pair, is_mirrored, held_out"):
        find_teacher(settings(path), prepared)


def test_held_out_rows_that_have_shaped_the_teachers_of_other_folds_are_counted_and_said(prepared, tmp_path):
    table, num_rows = prepared.train_table, len(prepared.train_table)
    origin = Origin(table.groups, table.pairs, table.is_mirrored, np.ones(num_rows, np.bool_))
    rows = RowLogits(table.ids.to_pylist(), np.zeros((num_rows, 3)), table.targets, origin)
    for notes, expected in (({}, 0), ({"num_folds": "3", "members": "2"}, len(prepared.valid_rows))):
        write_logits(tmp_path / "all.parquet", dataclasses.replace(rows, notes=notes))
        teacher = find_teacher(settings(tmp_path / "all.parquet"), prepared)
        assert teacher.num_taught_by_held_out == expected
        assert [text.startswith(f"{expected} held-out rows") for text in teacher.warnings] == [True] * bool(expected)


def test_the_loss_is_hintons():
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    loss = distillation_loss(logits, teacher, temperature=2.5)
    by_torch = torch.nn.functional.kl_div(
        torch.log_softmax(logits / 2.5, -1), torch.softmax(teacher / 2.5, -1), reduction="none"
    ).sum(-1)
    torch.testing.assert_close(loss, 2.5**2 * by_torch)
    torch.testing.assert_close(distillation_loss(teacher, teacher, 3.0), torch.zeros(5, dtype=torch.float64))


def test_smoothed_targets_are_keras_ones():
    target = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    expected = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.18 + 0.1 / 3, 0.27 + 0.1 / 3, 0.45 + 0.1 / 3]])
    torch.testing.assert_close(smooth_targets(target, 0.1), expected)
    assert smooth_targets(target, 0.0) is target
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    by_torch = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, smooth_targets(target, 0.1)), by_torch)


def test_ranks_may_find_the_teachers_logits_at_other_places_but_not_weigh_them_otherwise(write_run):
    asked = load_config(write_run("student")[0])
    here, there, heavier = (
        flatten(with_values(asked, train__distill={"logits": path, "weight": weight}))
        for path, weight in (("/here/oof.parquet", 0.5), ("/there/oof.parquet", 0.5), ("/here/oof.parquet", 0.6))
    )
    assert here == there
    assert here != heavier


@pytest.mark.ranks
def test_a_student_of_labels_alone_and_one_of_its_teacher_differ_and_two_ranks_agree(write_run, teacher_file):
    path, _ = teacher_file()
    losses = {}
    for name, distill in {
        "plain": None,
        "taught": {"logits": str(path), "weight": 0.7},
    }.items():
        for backend, world_size in (("single", 1), ("ddp", 2)):
            train = {"max_steps": 4, "distill": distill, "swap": "paired"}
            run_yaml, run_dir = write_run(f"{name}-{backend}", train=train)
            check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
            losses[name, backend] = read_losses(run_dir)
        assert largest_loss_difference(losses[name, "single"], losses[name, "ddp"]) < 1e-5
    assert largest_loss_difference(losses["plain", "single"], losses["taught", "single"]) > 1e-2


@pytest.mark.ranks
def test_a_run_does_not_go_on_with_another_teacher(write_run, teacher_file):
    path, _ = teacher_file()
    run_yaml, run_dir = write_run(
        "taught", train={"max_steps": 3, "save_every_steps": 1, "distill": settings(path).model_dump()}
    )
    check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
    (run_dir / "state.json").write_text('{"state": "stopped", "step": 3, "reason": ""}')
    kept = read_logits(path)
    write_logits(path, dataclasses.replace(kept, logits=kept.logits + np.arange(3)))
    result = run_verb("single", 1, ["train", str(run_yaml)])[0]
    assert result.exit_code == 5
    assert "the logits of train.distill.logits changed" in result.stderr
