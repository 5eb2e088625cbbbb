"""All checks, in the order in which they are shown, grouped by the process that they run in.

Each group has a process of its own, so that a hung disk, hub or driver stops nothing but itself.
"""

from pref_dist.doctor import (
    cores,
    deepspeed_ops,
    devices,
    folders,
    hub,
    limits,
    network,
    run_config,
    slurm_job,
    versions,
)
from pref_dist.doctor.finding import Check

DISK_HANGS = "Is its file server up? Move it to a folder that answers."
PROCESS_HANGS = "Run it again: a first start reads from disk. If it hangs again, look there: strace -f, py-spy dump."
GPU_HANGS = "The GPU's driver hangs: nvidia-smi, dmesg (Xid); the machine may need a restart."
CALM = 15.0  # seconds, for what only a busy machine can make slow
NEVER_HANGS = "It reads the machine's own files alone: is the machine overloaded (uptime)?"

GROUPS: dict[str, tuple[Check, ...]] = {
    "machine": (
        Check("Python", versions.check_python, CALM, "error", NEVER_HANGS),
        Check("packages", versions.check_packages, CALM, "error", DISK_HANGS),
        Check("run config", run_config.check_config, CALM, "error", DISK_HANGS),
        Check("launch", run_config.check_launch, CALM, "error", DISK_HANGS),
        Check("CPU cores", cores.check_cores, CALM, "warning", NEVER_HANGS),
        Check("threads", cores.check_threads, CALM, "warning", NEVER_HANGS),
        Check("memory", cores.check_memory, CALM, "warning", NEVER_HANGS),
        Check("open files", limits.check_open_files, CALM, "warning", NEVER_HANGS),
        Check("file size", limits.check_file_size, CALM, "warning", NEVER_HANGS),
        Check("locked memory", limits.check_locked_memory, CALM, "warning", NEVER_HANGS),
        Check("interfaces", network.check_interfaces, CALM, "warning", NEVER_HANGS),
        Check("proxies", hub.check_proxies, CALM, "warning", NEVER_HANGS),
        Check("Slurm", slurm_job.check_job, CALM, "warning", NEVER_HANGS),
    ),
    "scheduler": (
        Check("Slurm time", slurm_job.check_time_left, 8, "warning", "The Slurm controller does not answer: sinfo."),
    ),
    "network": (
        Check("host name", network.check_host_name, 8, "warning", "The name server does not answer: /etc/resolv.conf."),
    ),
    "devices": (
        Check("torch import", devices.check_torch, 15, "warning", PROCESS_HANGS),
        Check("CUDA", devices.check_cuda, 12, "error", GPU_HANGS),
        Check("GPUs", devices.check_gpus, 12, "error", GPU_HANGS),
        Check("precision", devices.check_precision_asked, CALM, "warning", PROCESS_HANGS),
        Check("back-end", run_config.check_backend, CALM, "warning", PROCESS_HANGS),
        Check("DeepSpeed ops", deepspeed_ops.check_op_cache, 12, "error", DISK_HANGS),
        Check("DeepSpeed import", deepspeed_ops.check_deepspeed, 15, "warning", PROCESS_HANGS),
    ),
    "cache": (Check("cache folder", folders.check_cache_folder, 10, "error", DISK_HANGS),),
    "temporary": (
        Check("temporary folder", folders.check_temporary_folder, 10, "error", DISK_HANGS),
        Check("/dev/shm", folders.check_shared_memory, CALM, "error", NEVER_HANGS),
    ),
    "hub": (Check("hub", hub.check_hub, 8, "warning", hub.OFFLINE_REMEDY),),
    "model": (
        Check("model", run_config.check_model, 12, "error", DISK_HANGS),
        Check("memory of a rank", run_config.check_rank_memory, CALM, "warning", DISK_HANGS),
    ),
    "data": (Check("data", run_config.check_data, 10, "error", DISK_HANGS),),
    "run folder": (Check("run folder", run_config.check_run_folder, 12, "error", DISK_HANGS),),
}
# They need neither torch nor the hub, so that every machine of a launch can make them.
OF_EACH_MACHINE = ("machine", "network", "cache", "temporary")
WITH_RUN_CONFIG = ("model", "data", "run folder")
