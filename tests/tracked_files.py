"""Reads back what TensorBoard and Weights & Biases have written."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

Curves = dict[tuple[str, int], list[float]]  # (tag, step) -> its values, one unless something stands twice

BLOCK = 32_768  # bytes of a LevelDB log, which a .wandb file is
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # a record, or which part of one


def read_tensorboard(folder: Path) -> Curves:
    """What TensorBoard shows, in float32, as it keeps it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves: Curves = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            curves.setdefault((tag, event.step), []).append(event.value)
    return curves


def read_wandb(file: Path) -> Curves:
    """What an offline run holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = {}
    for content in iterate_records(file.read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") != "history":
            continue
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for tag, value in values.items():
            if not tag.startswith("_") and tag != "step":
                curves.setdefault((tag, values["step"]), []).append(value)
    return curves


def iterate_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, which has a header of 7 bytes here; no record's header is cut by a block's end."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts = (b"" if kind in (WHOLE, FIRST) else parts) + content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            yield parts


def read_metrics_log(run_dir: Path) -> Curves:
    """What the trackers should have, of metrics.jsonl."""
    curves: Curves = {}
    for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        kind = "train" if "loss" in record else "valid"
        for key, value in record.items():
            if key != "step":
                curves.setdefault((f"{kind}/{key}", record["step"]), []).append(float(value))
    return curves
