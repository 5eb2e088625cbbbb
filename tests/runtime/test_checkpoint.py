"""Checkpoints on disk: whole or not there, the same content however they were cut, damage named."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pref_dist.errors import CheckpointError
from pref_dist.runtime.checkpoint import (
    drop_newer,
    find_newest,
    list_steps,
    open_checkpoint,
    prune,
    read_into,
    read_weights,
    recover,
)
from pref_dist.runtime.checkpoint_writer import CheckpointWriter, measure_state
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.replicated import ReplicatedEngine
from pref_dist.runtime.topology import Topology

ALONE = Parallel(Topology("single", 1, 0, 0), torch.device("cpu"))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, values):
        return self.head(torch.tanh(self.body(values)))


def build_engine(seed, frozen=""):
    torch.manual_seed(seed)
    module = Small()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name != frozen)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "lr": 0.01, "weight_decay": 0.0}]
    return module, ReplicatedEngine(module, module, groups, EngineSettings("fp32", 1.0), ALONE.device, 1)


def take_steps(module, engine, count):
    for number in range(count):
        torch.manual_seed(number)
        loss = module(torch.randn(5, 4)).square().mean()
        engine.backward(loss, is_last=True)
        engine.step(1.0)


def build_writer(folder, engine_bytes=0, in_background=False):
    return CheckpointWriter(folder, ALONE, engine_bytes, in_background, timeout_seconds=60, shard_bytes=100)


def save(folder, step, engine, progress):
    writer = build_writer(folder)
    writer.save(step, engine, progress, {})
    return writer.complete()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3 of one engine."""
    module, engine = build_engine(0)
    for step in (1, 2, 3):
        take_steps(module, engine, 1)
        save(tmp_path, step, engine, {"note": step})
    return tmp_path, module, engine


def test_a_new_engine_goes_on_bit_for_bit_from_a_checkpoint_in_several_shards(saved):
    folder, module, engine = saved
    checkpoint = open_checkpoint(folder / "step_000003")
    assert len(list(checkpoint.folder.glob("model-*.safetensors"))) > 1
    assert checkpoint.step == 3
    assert checkpoint.progress == {"note": 3}
    other_module, other = build_engine(1)
    read_into(checkpoint, other)
    for one, two in ((module, engine), (other_module, other)):
        take_steps(one, two, 4)
    for left, right in zip(module.parameters(), other_module.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_newest_whole_checkpoint_is_found_and_damage_is_said(saved):
    folder, *_ = saved
    said = []
    assert find_newest(folder, said.append).step == 3
    assert said == []
    file = next((folder / "step_000003").glob("optimizer-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert find_newest(folder, said.append).step == 2
    assert file.name in said[0]
    assert "damaged" in said[0]


def test_damaged_newer_checkpoints_never_push_out_good_ones(saved):
    folder, _, engine = saved
    (folder / "step_000003" / "manifest.json").unlink()
    drop_newer(folder, find_newest(folder, print).step)
    save(folder, 4, engine, {})
    prune(folder, keep_last=2, best_step=None)
    assert list_steps(folder) == [2, 4]


@pytest.mark.parametrize("flipped", [('"step": 3', '"step": 7'), ('"step": 3', '"step": "3"'), ('"step"', '"stdp"')])
def test_a_manifest_whose_step_was_damaged_is_passed_over(saved, flipped):
    """Without a step it could not be used, and with a later one the plan would seem to have shrunk."""
    folder, *_ = saved
    manifest = folder / "step_000003" / "manifest.json"
    assert flipped[0] in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(*flipped))
    said: list[str] = []
    assert find_newest(folder, said.append).step == 2
    assert "step 3 is unusable" in said[0]


def test_if_all_are_damaged_nothing_is_chosen_and_nothing_deleted(saved):
    folder, *_ = saved
    for manifest in folder.glob("*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(CheckpointError, match=r"All checkpoints .* are damaged \(steps \[1, 2, 3\]\).*--fresh"):
        find_newest(folder, lambda _: None)
    assert list_steps(folder) == [1, 2, 3]


def test_a_missing_file_another_format_and_a_missing_folder_are_named(saved):
    folder, *_ = saved
    next((folder / "step_000001").glob("model-*")).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_checkpoint(folder / "step_000001")
    manifest = folder / "step_000002" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        open_checkpoint(folder / "step_000002")
    with pytest.raises(CheckpointError, match=r"does not exist.*\[1, 2, 3\]"):
        open_checkpoint(folder / "step_000007")


def test_the_last_ones_and_the_best_one_are_kept_and_leftovers_go(saved):
    folder, *_ = saved
    (folder / "step_000009.tmp").mkdir()
    prune(folder, keep_last=1, best_step=1)
    assert list_steps(folder) == [1, 3]
    assert sorted(path.name for path in folder.iterdir()) == ["step_000001", "step_000003"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_others_as_they_are(saved):
    folder, _, engine = saved
    (folder / "step_000004.tmp").write_text("a file where a folder must be made")
    with pytest.raises(CheckpointError, match=r"could not be written: rank 0.*Older checkpoints are untouched"):
        save(folder, 4, engine, {})
    assert list_steps(folder) == [1, 2, 3]
    assert find_newest(folder, print).step == 3


def test_a_checkpoint_of_another_model_is_refused(saved):
    folder, *_ = saved
    module = nn.Linear(4, 3)
    groups = [{"params": list(module.parameters()), "lr": 0.01, "weight_decay": 0.0}]
    engine = ReplicatedEngine(module, module, groups, EngineSettings("fp32", 1.0), ALONE.device, 1)
    with pytest.raises(CheckpointError, match="holds no 'weight': it belongs to another model"):
        read_into(open_checkpoint(folder / "step_000003"), engine)


def test_what_is_written_in_the_background_is_the_state_of_its_step_although_training_goes_on(saved, tmp_path):
    folder, module, engine = saved
    in_background = build_writer(tmp_path / "background", in_background=True)
    in_background.save(3, engine, {"note": 3}, {"extra.bin": b"kept"})
    take_steps(module, engine, 5)
    assert in_background.complete() == tmp_path / "background" / "step_000003"
    written, expected = (open_checkpoint(place / "step_000003") for place in (tmp_path / "background", folder))
    assert (written.folder / "extra.bin").read_bytes() == b"kept"
    names = sorted(name for name in expected.manifest["files"] if name.endswith(".safetensors"))
    assert sorted(written.manifest["files"]) == sorted([*names, "extra.bin", "progress.json"])
    for name in names:
        ours, theirs = load_file(written.folder / name), load_file(expected.folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_checkpoint_under_way_is_not_the_newest_before_it_is_complete(saved):
    folder, _, engine = saved
    writer = build_writer(folder, in_background=True)
    assert writer.complete() is None
    writer.save(4, engine, {}, {})
    while writer.is_writing():
        time.sleep(0.001)
    assert list_steps(folder) == [1, 2, 3]
    writer.complete()
    assert list_steps(folder) == [1, 2, 3, 4]


def test_an_error_in_the_background_comes_out_when_the_checkpoint_is_completed(saved):
    folder, _, engine = saved
    writer = build_writer(folder, in_background=True)
    writer.save(4, engine, {}, {"no_such_folder/file": b"", "progress.json": b"{}"})
    (folder / "step_000004.tmp").rename(folder / "elsewhere")  # under the writer's hands, before or after it began
    with pytest.raises(CheckpointError, match="The checkpoint of step 4 could not be written: rank 0"):
        writer.complete()
    assert list_steps(folder) == [1, 2, 3]
    assert not (folder / "step_000004.tmp").exists()


def test_a_checkpoint_for_which_there_is_no_room_is_not_begun(saved):
    folder, module, engine = saved
    assert measure_state(module) == 3 * 4 * (4 * 8 + 8 + 8 * 3 + 3)
    writer = build_writer(folder, engine_bytes=10**18)
    with pytest.raises(CheckpointError, match=r"step 4 .* 1000000.0 TB are needed, and .* free .*train.keep_last"):
        writer.save(4, engine, {}, {})
    assert sorted(path.name for path in folder.iterdir()) == ["step_000001", "step_000002", "step_000003"]


def test_what_is_frozen_takes_no_room_and_stays_as_it_is_where_weights_are_read(tmp_path):
    module, engine = build_engine(0, frozen="body.weight")
    take_steps(module, engine, 2)
    save(tmp_path, 1, engine, {})
    assert measure_state(module) == 3 * 4 * (8 + 8 * 3 + 3)
    checkpoint = open_checkpoint(tmp_path / "step_000001")
    other, _ = build_engine(1, frozen="body.weight")
    own = other.body.weight.clone()
    read_weights(checkpoint, other)
    assert torch.equal(other.body.weight, own)
    assert torch.equal(other.head.weight, module.head.weight)
    with pytest.raises(CheckpointError, match=r"holds no 'body\.weight'"):
        read_weights(checkpoint, build_engine(1)[0])


def test_a_complete_checkpoint_that_a_crash_left_unnamed_gets_its_name_and_no_other_does(saved):
    """A crash while step 3 takes the place of an older step 3 must not lose both."""
    folder, *_ = saved
    (folder / "step_000003").rename(folder / "step_000003.tmp")
    (folder / "step_000002").rename(folder / "step_000002.tmp")
    (folder / "step_000002.tmp" / "manifest.json").unlink()
    recover(folder)
    assert list_steps(folder) == [1, 3]
    assert find_newest(folder, print).step == 3
