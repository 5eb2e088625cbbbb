"""The processes of a run: starting them up, checking that they are what was asked for, talking among them."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from pref_dist.config.schema import Backend, ParallelSection
from pref_dist.config.train_section import Precision
from pref_dist.errors import ParallelError
from pref_dist.runtime.engine import Engine, EngineSettings, InferenceEngine
from pref_dist.runtime.heartbeat import Whereabouts, limit_of_collectives
from pref_dist.runtime.meeting import meeting
from pref_dist.runtime.pipeline import gather_numbers
from pref_dist.runtime.precision import check_precision, forbid_tf32
from pref_dist.runtime.replicated import ReplicatedEngine
from pref_dist.runtime.topology import Topology, find_topology, settle_topology

T = TypeVar("T")
WatchBatches = Callable[[int, int], None]  # hears of (batches evaluated, batches of this rank)

# Where a layer's weights are whole before its forward begins.
COMPILING: tuple[Backend, ...] = ("single", "ddp", "zero0", "zero1", "zero2", "zero2_offload", "fsdp2")


LEFT_GROUPS: list[Any] = []  # see `Parallel.stop`


class Parallel:
    """This process among its ranks. Build it by `start_parallel`, end it by `stop`.

    watch_batches: is told on rank 0, before each batch of an evaluation and after the last, how far it is.
    """

    def __init__(self, topology: Topology, device: torch.device, watch_batches: WatchBatches | None = None) -> None:
        self.topology, self.device = topology, device
        self.rank, self.world_size = topology.rank, topology.world_size
        self.backend = topology.backend
        self.whereabouts = Whereabouts()
        self._watch_batches = watch_batches if self.rank == 0 else None
        self._replicas: list[nn.parallel.DistributedDataParallel] = []

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def num_local_ranks(self) -> int:
        """Ranks of this machine, as far as the launcher says; else all of them."""
        text = os.environ.get("LOCAL_WORLD_SIZE", "")
        return int(text) if text.isdigit() and int(text) > 0 else self.world_size

    @property
    def fails_alone(self) -> bool:
        """Whether forward and backward of a micro-batch, but for a step's last one, wait for no other rank."""
        return self.backend in ("single", "ddp", "zero0", "zero1")

    def note_batches(self, done: int, total: int) -> None:
        """Say how many of this rank's batches of an evaluation are done."""
        if self._watch_batches is not None:
            self._watch_batches(done, total)

    def sum(self, *values: float | Tensor) -> list[float]:
        """Return each value summed over all ranks, in float64, the same bits on every rank.

        () tensors may be on the device, which the host waits for here, once for all of them.
        """
        total = gather_numbers(values, self.device)
        if self.world_size > 1:
            self.whereabouts.go_on()
            total = total.to(self.device)  # also where no value is there: NCCL knows no other place
            torch.distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        self.whereabouts.go_on()
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.world_size == 1:
            return value
        self.whereabouts.go_on()
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def check_agreement(self, values: dict[str, str]) -> None:
        """Raise ParallelError on every rank unless all ranks hold the same values; names the key and a rank."""
        everyone = self.gather(values)
        for rank, found in enumerate(everyone):
            for key, value in everyone[0].items():
                if found[key] != value:
                    raise ParallelError(
                        f"Rank {rank} does not agree with rank 0 on {key}: {found[key]} there, {value} on rank 0. "
                        "All machines need the same run config, data, model files and kind of device."
                    )

    def build_engine(
        self, module: nn.Module, groups: list[dict[str, Any]], settings: EngineSettings, timeout_seconds: int
    ) -> Engine:
        """Put a model and its optimiser on this rank's device under the run's back-end.

        Raises ParallelError if what really runs is not the back-end or the precision that was asked for.
        """
        check_precision(settings.precision, self.device)
        if next(module.parameters()).dtype == torch.float64 and (self.topology.is_zero or settings.precision != "fp32"):
            raise ParallelError(
                "model.weight_dtype=fp64 runs on single, ddp and fsdp2 with train.precision=fp32, not on "
                f"{self.backend} with {settings.precision}. Set model.weight_dtype=fp32."
            )
        if self.topology.is_zero:
            from pref_dist.runtime.zero import build_zero_engine

            assert self.topology.zero_file is not None
            engine: Engine = build_zero_engine(
                self.topology.zero_file, module, groups, settings, self.world_size, timeout_seconds
            )
        elif self.backend == "fsdp2":
            from pref_dist.runtime.fsdp import FsdpEngine

            engine = FsdpEngine(module, groups, settings, self.device)
        else:
            module.to(self.device)
            engine = ReplicatedEngine(module, self._wrap(module), groups, settings, self.device, self.world_size)
        self._check_engine(engine, settings.precision)
        return engine

    def _wrap(self, module: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return module
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # The model has no buffers that training changes, and every parameter takes part in every step.
        replica = nn.parallel.DistributedDataParallel(
            module, device_ids=device_ids, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        self._replicas.append(replica)
        return replica

    def build_inference_engine(self, module: nn.Module, precision: Precision, timeout_seconds: int) -> InferenceEngine:
        """Put a model on the ranks for evaluation alone: shared among them under ZeRO-3 and FSDP2, else whole."""
        check_precision(precision, self.device)
        settings = EngineSettings(precision=precision, clip_norm=None)
        if self.backend in ("zero3", "zero3_offload"):
            from pref_dist.runtime.zero import build_zero_inference

            assert self.topology.zero_file is not None
            return build_zero_inference(self.topology.zero_file, module, settings, self.world_size, timeout_seconds)
        if self.backend == "fsdp2":
            from pref_dist.runtime.fsdp import FsdpInference

            return FsdpInference(module.eval(), settings, self.device)
        module.to(self.device).eval()
        return ReplicatedEngine(module, module, None, settings, self.device, self.world_size)

    def _check_engine(self, engine: Engine, precision: Precision) -> None:
        found = engine.describe()
        for name, asked in (("backend", self.backend), ("world_size", self.world_size), ("precision", precision)):
            if found[name] != asked:
                raise ParallelError(f"The engine runs with {name}={found[name]}, but {asked} was asked for.")

    def stop(self) -> None:
        """Leave the process group; a DDP engine can no longer exchange anything.

        Not after an error: another rank may never come.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        # A thread of gloo may still hold the tensor of a finished exchange, and needs Python's lock to drop it. So the
        # last to hold the group, who waits for its threads, must be Python's own handle, which gives up the lock;
        # DDP's reducer would wait with the lock held, for ever. A group that is never dropped is bad, too: where such
        # a thread asks for the lock while Python ends, the process aborts (torch 2.13). DeepSpeed and FSDP2 keep groups
        # of their own for ever, and once the heap was found damaged in a run after one whose group had gone: theirs
        # stay, and cli/program.py ends a rank by os._exit.
        if self.backend != "ddp":
            LEFT_GROUPS.append(torch.distributed.group.WORLD)
        for replica in self._replicas:
            del replica.reducer, replica.logger, replica.process_group
        self._replicas.clear()
        torch.distributed.destroy_process_group()
        gc.collect()


def stand_alone(device: str | torch.device | None = None) -> Parallel:
    """Return this process by itself, whatever has launched it, on `device`; None: the first GPU, else the CPU."""
    topology = Topology("single", world_size=1, rank=0, local_rank=0)
    return Parallel(topology, choose_device(topology) if device is None else torch.device(device))


def start_parallel(
    request: ParallelSection, deterministic: bool = False, watch_batches: WatchBatches | None = None
) -> Parallel:
    """Find the ranks of this launch, check them against the request, and connect them.

    Raises ParallelError if the back-end or the number of ranks is not what was asked for.
    """
    topology = settle_topology(find_topology(os.environ), request)
    check_compile(request, topology.backend)
    device = choose_device(topology)
    set_environment(topology, device)
    forbid_tf32()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if topology.world_size > 1 or topology.backend not in ("single", "ddp"):
        connect(topology, device, request.timeout_seconds)
    return Parallel(topology, device, watch_batches)


def check_compile(request: ParallelSection, backend: Backend) -> None:
    """Raise ParallelError where layers cannot be compiled whole."""
    if not request.compile:
        return
    if backend not in COMPILING:
        raise ParallelError(
            f"parallel.compile=true, but parallel.backend={backend} gathers weights inside the layers, which cuts them "
            f"into pieces. Set parallel.compile=false, or use one of {', '.join(COMPILING)}."
        )
    if backend == "fsdp2" and request.activation_checkpointing:
        raise ParallelError(
            "parallel.compile=true and parallel.activation_checkpointing=true do not go together on "
            "parallel.backend=fsdp2, where the first step would hang. Set one of them to false, or use ddp or zero2."
        )


def choose_device(topology: Topology) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if topology.local_rank >= torch.cuda.device_count():
        raise ParallelError(
            f"Local rank {topology.local_rank} has no GPU: this machine shows {torch.cuda.device_count()}. "
            "Start at most one rank a GPU."
        )
    torch.cuda.set_device(topology.local_rank)
    return torch.device("cuda", topology.local_rank)


def set_environment(topology: Topology, device: torch.device) -> None:
    """Set what a machine without a GPU needs, before Accelerate or DeepSpeed are imported.

    DeepSpeed would be plain DDP under ACCELERATE_USE_CPU=true; DDP would look for GPUs without it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # As Accelerate sets it, transformers would read the weights on rank 0 alone.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if device.type != "cpu":
        return
    if topology.is_zero:
        os.environ["DS_ACCELERATOR"] = "cpu"
        built = Path(sys.prefix) / "torch_extensions"  # by launch/install.sh
        if built.is_dir():
            os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(built))
        os.environ.pop("ACCELERATE_USE_CPU", None)
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"


def connect(topology: Topology, device: torch.device, timeout_seconds: int) -> None:
    """Join the process group and check that all ranks are in it, each with its own number."""
    # Imported later, its default arguments would hold the group for ever, see `Parallel.stop`.
    import torch.distributed.nn.functional

    with meeting(os.environ, timeout_seconds):
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=topology.rank,
            world_size=topology.world_size,
            timeout=limit_of_collectives(device.type, timeout_seconds),
        )
    ranks: list[Any] = [None] * topology.world_size
    torch.distributed.all_gather_object(ranks, topology.rank)
    if sorted(ranks) != list(range(topology.world_size)):
        raise ParallelError(f"The ranks that see each other are {ranks}, not 0 to {topology.world_size - 1}.")
