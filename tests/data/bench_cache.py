"""Measures the token cache: its build against pandas + datasets + transformers, a warm start, and memory.

    python -m tests.data.bench_cache --data train.csv --tokenizer MODEL_FOLDER

Every measurement is a fresh process that times the work beyond its imports, in a cache folder of
its own, so nothing is found again. The ways take turns, so that a slow minute of the machine hits
all of them. Tokens a second are real tokens of the finished rows, padding not counted.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
WAYS = {"ours": "pref_dist", "peer": "datasets.map", "peer_2": "datasets.map, num_proc=2"}
GROWTH = 8  # the larger file of the memory measurement has so many times the rows
SECONDS_BETWEEN_SAMPLES = 0.02


def main() -> None:
    arguments = parse_arguments()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="bench_cache-") as folder:
        arguments.folder = Path(folder)
        found = {"machine": describe_machine()}
        for name, measure in (("build", compare_builds), ("warm", measure_warm), ("memory", measure_memory)):
            if name in arguments.only:
                found[name] = measure(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled CSV file with lists of turns")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="builds of each way")
    parser.add_argument("--only", nargs="+", choices=("build", "warm", "memory"), default=["build", "warm", "memory"])
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def describe_machine() -> dict[str, Any]:
    machine = {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2)}
    print(f"{machine['cores']} cores, load {machine['load']} before the first measurement")
    return machine


# What the measuring process does


def compare_builds(arguments: argparse.Namespace) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for repeat in range(arguments.repeats):
        for way in WAYS:
            runs[way].append(run_part(way, arguments, arguments.folder / f"{way}-{repeat}"))
            print(f"  {WAYS[way]:<26} {runs[way][-1]['seconds']:6.1f} s", flush=True)
    for way, found in runs.items():
        speeds = [run["tokens"] / run["seconds"] for run in found]
        seconds = [run["seconds"] for run in found]
        cpu_seconds = statistics.median(run["cpu_seconds"] for run in found)
        print(
            f"{WAYS[way]:<26} {statistics.median(speeds):>9,.0f} tokens/s ({min(speeds):,.0f} to {max(speeds):,.0f}), "
            f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
            f"{cpu_seconds:.1f} s of processor, {found[0]['rows']:,} rows, {found[0]['tokens']:,} tokens"
        )
    for way in ("peer", "peer_2"):
        pairs = list(zip(runs["ours"], runs[way], strict=True))
        ratios = [ours["tokens"] / ours["seconds"] / (peer["tokens"] / peer["seconds"]) for ours, peer in pairs]
        times = [peer["seconds"] / ours["seconds"] for ours, peer in pairs]
        print(
            f"ours / {WAYS[way]}: {statistics.median(ratios):.2f} in tokens/s ({min(ratios):.2f} to {max(ratios):.2f}),"
            f" {statistics.median(times):.2f} in time ({min(times):.2f} to {max(times):.2f})"
        )
    before = {way: run_part(f"count_{way}", arguments, arguments.folder / "ours-0") for way in ("ours", "peer")}
    print("text tokens before truncation: " + ", ".join(f"{way} {found['tokens']:,}" for way, found in before.items()))
    return {"runs": runs, "before_truncation": before}


def measure_warm(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.folder / "warm"
    run_part("warm", arguments, folder)  # builds
    runs = [run_part("warm", arguments, folder) for _ in range(5)]
    assert not any(run["was_built"] for run in runs)
    for name in ("seconds", "tokenizer_seconds", "digest_seconds"):
        values = [run[name] for run in runs]
        print(f"warm start, {name:<17} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    return {"runs": runs}


def measure_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    large = arguments.folder / "large.csv"
    repeat_rows(arguments.data, large, GROWTH)
    small_peak = measure_peak(arguments, arguments.data, arguments.folder / "small")
    large_peak = measure_peak(arguments, large, arguments.folder / "large")
    growth = large_peak / small_peak - 1
    sizes = [f"{path.stat().st_size / 2**20:,.0f} MiB" for path in (arguments.data, large)]
    print(
        f"peak memory, all processes: {small_peak / 2**20:,.0f} MiB for a file of {sizes[0]}, "
        f"{large_peak / 2**20:,.0f} MiB for one of {sizes[1]}: {growth:+.1%}"
    )
    return {"small_bytes": small_peak, "large_bytes": large_peak, "growth": growth}


def measure_peak(arguments: argparse.Namespace, data: Path, folder: Path) -> int:
    peaks = [0]
    run_part("ours", argparse.Namespace(**{**vars(arguments), "data": data}), folder, lambda rss: peaks.append(rss))
    return max(peaks)


def run_part(
    part: str, arguments: argparse.Namespace, folder: Path, hear_rss: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Run one measurement in a fresh process and return what it prints; `hear_rss` gets the memory of its tree."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.data.bench_cache", "--part", part, "--folder", str(folder)]
    command += ["--data", str(arguments.data), "--tokenizer", str(arguments.tokenizer)]
    command += ["--max-tokens", str(arguments.max_tokens)]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if hear_rss is not None:
        threading.Thread(target=watch_rss, args=(process.pid, hear_rss), daemon=True).start()
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def watch_rss(pid: int, hear_rss: Callable[[int], None]) -> None:
    """Report the resident memory of a process and all below it, pages that they share counted for each."""
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            hear_rss(sum(read_rss(process) for process in [parent, *parent.children(recursive=True)]))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    except psutil.NoSuchProcess:
        return


def read_rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def repeat_rows(source: Path, target: Path, times: int) -> None:
    """Write the rows of `source` so many times, the copies with other ids."""
    with open(target, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        for number in range(times):
            with open(source, encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                header = next(reader)
                place = header.index("id")
                if number == 0:
                    writer.writerow(header)
                writer.writerows(rename(row, place, number) for row in reader)


def rename(row: list[str], place: int, number: int) -> Iterable[str]:
    return [*row[:place], f"{row[place]}-{number}", *row[place + 1 :]]


# What the measured processes do; each imports what it needs before its clock starts


def build_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoTokenizer  # noqa: F401 - load_tokenizer would import it

    from pref_dist.config.schema import DataSection
    from pref_dist.data.cache import open_tokens
    from pref_dist.data.encode import load_tokenizer

    started, cpu_started = time.perf_counter(), read_cpu_seconds()
    data = DataSection(max_tokens=arguments.max_tokens)
    table = open_tokens(arguments.data, data, load_tokenizer(arguments.tokenizer), arguments.folder / "cache")
    assert table.was_built
    seconds, cpu_seconds = time.perf_counter() - started, read_cpu_seconds() - cpu_started
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "rows": len(table), "tokens": table.num_tokens}


def build_peer(arguments: argparse.Namespace, num_proc: int | None = None) -> dict[str, Any]:
    import numpy as np
    import pandas as pd
    from datasets import Dataset
    from transformers import AutoTokenizer

    started, cpu_started = time.perf_counter(), read_cpu_seconds()
    dataset = Dataset.from_pandas(pd.read_csv(arguments.data))
    tokenizer = AutoTokenizer.from_pretrained(str(arguments.tokenizer))

    def tokenize(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(render_batch(batch), truncation=True, padding="max_length", max_length=arguments.max_tokens)

    tokenized = dataset.map(tokenize, batched=True, num_proc=num_proc)
    seconds, cpu_seconds = time.perf_counter() - started, read_cpu_seconds() - cpu_started
    masks = tokenized.with_format("numpy")["attention_mask"]
    num_tokens = sum(int(np.sum(mask)) for mask in masks)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "rows": len(tokenized), "tokens": num_tokens}


def read_cpu_seconds() -> float:
    """Return the processor time of this process and its ended children, which busy neighbours change little."""
    return sum(os.times()[:4])


def render_batch(batch: dict[str, list[Any]]) -> list[str]:
    columns = (batch["prompt"], batch["response_a"], batch["response_b"])
    return [f"Prompt: {p} \n Response A: {a} \n Response B: {b}" for p, a, b in zip(*columns, strict=True)]


def count_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    from pref_dist.config.schema import DataSection
    from pref_dist.data.cache import open_tokens
    from pref_dist.data.encode import load_tokenizer

    data = DataSection(max_tokens=arguments.max_tokens)
    table = open_tokens(arguments.data, data, load_tokenizer(arguments.tokenizer), arguments.folder / "cache")
    assert not table.was_built
    return {"tokens": int(table.full_lengths.sum(dtype="int64"))}


def count_peer(arguments: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = render_batch(pd.read_csv(arguments.data).to_dict("list"))
    return {"tokens": sum(len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))}


def start_warm(arguments: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoTokenizer  # noqa: F401 - load_tokenizer would import it

    from pref_dist.config.schema import DataSection, RunConfig
    from pref_dist.data.encode import load_tokenizer
    from pref_dist.data.prepare import prepare
    from pref_dist.files import digest_file

    section = DataSection(
        train=str(arguments.data), max_tokens=arguments.max_tokens, cache_dir=str(arguments.folder / "cache")
    )
    started = time.perf_counter()
    prepared = prepare(RunConfig(data=section), arguments.tokenizer)
    seconds = time.perf_counter() - started
    # What of it is spent where, measured once more.
    started = time.perf_counter()
    load_tokenizer(arguments.tokenizer)
    tokenizer_seconds = time.perf_counter() - started
    started = time.perf_counter()
    digest_file(arguments.data)
    return {
        "seconds": seconds,
        "tokenizer_seconds": tokenizer_seconds,
        "digest_seconds": time.perf_counter() - started,
        "was_built": prepared.train_table.was_built,
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ours": build_ours,
    "peer": build_peer,
    "peer_2": lambda arguments: build_peer(arguments, num_proc=2),
    "count_ours": count_ours,
    "count_peer": count_peer,
    "warm": start_warm,
}

if __name__ == "__main__":
    main()
