import numpy as np
import pytest

from pref_dist.data.encode import RowEncoder
from pref_dist.data.rows import Row, Turn
from pref_dist.data.shards import build_schema, map_batches, read_vectors, write_shards
from pref_dist.data.templates import SEGMENT_NAMES

COLUMNS = {"row": "rows", "group": "groups", "pair": "pairs", "is_mirrored": "is_mirrored"}
VECTORS = {"target": "targets", "soft_target": "soft_targets"} | {
    name: name for name in ("segment_ends", "full_lengths", "kept_lengths")
}


@pytest.mark.parametrize("template", SEGMENT_NAMES)
def test_shards_hold_what_the_encoder_gives_for_every_template(tmp_path, wordpiece, template):
    rows = [
        Row(n, f"id {n}", (Turn(f"fox {n}", "dog " * n, "the"),), (0.0, 1.0, 0.0), (0.25, 0.25, 0.5) if n % 2 else None)
        for n in range(1, 8)
    ]
    encoder = RowEncoder(wordpiece, 96, template)
    names = write_shards(tmp_path, [encoder.encode(rows[:3]), encoder.encode(rows[3:])])
    (batch,) = map_batches(tmp_path / name for name in names)
    whole = encoder.encode(rows)
    assert batch.schema == build_schema(len(SEGMENT_NAMES[template]))
    assert batch.column("id").to_pylist() == whole.ids
    assert batch.column("input_ids").values.to_numpy().tolist() == whole.input_ids.tolist()
    for column, name in COLUMNS.items():
        assert batch.column(column).to_numpy().tolist() == getattr(whole, name).tolist()
    for column, name in VECTORS.items():
        values = read_vectors(batch, column)
        assert not values.flags.writeable
        np.testing.assert_array_equal(values, getattr(whole, name))
