"""The fifteen classes of faults."""

from collections.abc import Callable

from tests.faults.data_faults import inject_changed_data, inject_concurrent_builders, inject_damaged_cache
from tests.faults.file_faults import inject_damaged_checkpoint, inject_full_disk, inject_kill_saving
from tests.faults.injection import Injection
from tests.faults.number_faults import inject_fp16_overflow, inject_nan, inject_out_of_memory
from tests.faults.place_faults import inject_back_end, inject_unavailable, inject_world_size
from tests.faults.process_faults import inject_kill_step, inject_signal, inject_stopped_rank

CLASSES: dict[str, Callable[[Injection], None]] = {
    "signal": inject_signal,
    "kill_step": inject_kill_step,
    "kill_saving": inject_kill_saving,
    "damaged_checkpoint": inject_damaged_checkpoint,
    "full_disk": inject_full_disk,
    "stopped_rank": inject_stopped_rank,
    "nan": inject_nan,
    "fp16_overflow": inject_fp16_overflow,
    "out_of_memory": inject_out_of_memory,
    "world_size": inject_world_size,
    "back_end": inject_back_end,
    "changed_data": inject_changed_data,
    "damaged_cache": inject_damaged_cache,
    "concurrent_builders": inject_concurrent_builders,
    "unavailable": inject_unavailable,
}
