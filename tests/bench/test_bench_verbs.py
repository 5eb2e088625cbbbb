"""Each verb as a user starts it, on tiny rows. Speeds are not asserted, what was counted is."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from pref_dist.bench.own_train import read_log_loss
from pref_dist.bench.parts import TrainQuestion
from pref_dist.errors import BenchError

MAX_TOKENS = 96
NUM_ROWS = 40  # in batches of 8


def bench(*arguments: object, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pref_dist", "bench", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | (env or {}))
    assert result.returncode == code, result.stderr
    return result


@pytest.fixture(scope="module")
def about_rows(sample_dir, tiny_model) -> list[str]:
    data, model = str(sample_dir / "train.csv"), str(tiny_model)
    return ["--data", data, "--model", model, "--max-tokens", str(MAX_TOKENS), "--repeats", "1"]


@pytest.fixture(scope="module")
def trained(about_rows, tmp_path_factory):
    """The JSON of `bench train` with the standard output, one dropout."""
    out = tmp_path_factory.mktemp("bench") / "train.json"
    sizes = ["--steps", NUM_ROWS // 8, "--rows-per-step", 8, "--dropout", 0.1]
    result = bench("train", *about_rows, *sizes, "--out", out)
    return json.loads(out.read_text(encoding="utf-8")), result.stdout


def column(found, pipeline):
    return next(one for one in found["columns"] if one["pipeline"] == pipeline)


def test_every_pipeline_trains_on_every_row_once(trained):
    found, _ = trained
    for pipeline in ("own", "seed", "best"):
        one = column(found, pipeline)
        assert (one["rows"], one["steps"], one["repeats"], one["failure"]) == (NUM_ROWS, 5, 1, "")
        assert one["rows_per_second"]["median"] > 0
        assert 0 < one["utilisation"]["median"] < 2
        assert one["peak_bytes"]["median"] > 10**8
        assert 0 <= one["data_share"]["median"] < 1


def test_the_seed_pads_to_max_length_and_best_to_the_longest_of_similar_rows(trained):
    found, _ = trained
    seed, best = column(found, "seed"), column(found, "best")
    assert seed["tokens"] == best["tokens"]
    assert seed["padding_share"]["median"] == pytest.approx(1 - seed["tokens"] / (NUM_ROWS * MAX_TOKENS))
    assert set(seed["batch_widths"]) == {MAX_TOKENS}
    assert best["padding_share"]["median"] <= seed["padding_share"]["median"]


def test_ratios_and_table_say_the_same(trained):
    found, stdout = trained
    assert [(ratio["own"], ratio["peer"]) for ratio in found["ratios"]] == [
        ("own, dropout 0.1", "seed, dropout 0.1"),
        ("own, dropout 0.1", "best, dropout 0.1"),
    ]
    speeds = {name: column(found, name)["rows_per_second"]["median"] for name in ("own", "seed")}
    assert found["ratios"][0]["ratio"] == pytest.approx(speeds["own"] / speeds["seed"])
    assert f"own, dropout 0.1 / seed, dropout 0.1, 8 rows a step: {found['ratios'][0]['ratio']:.2f} x" in stdout
    assert stdout.startswith("training ")  # what will be done, and how long it takes
    assert "about" in stdout.splitlines()[0]
    assert found["machine"]["cores"] >= 1


def test_a_peer_that_is_not_installed_is_said_so_and_one_that_is_learns_every_row(trained):
    found, stdout = trained
    peer = column(found, "sentence-transformers")
    if find_spec("sentence_transformers") is None:
        assert peer["not_installed"]
        assert "not installed" in stdout
    else:
        assert peer["rows"] == NUM_ROWS


def test_every_pipeline_says_the_log_loss_of_held_out_rows_each_repeat_with_another_seed(
    about_rows, sample_dir, tmp_path
):
    out, valid = tmp_path / "scored.json", sample_dir / "test_labels.csv"
    sizes = ["--steps", 2, "--dropout", 0.1, "--peers", "seed,best", "--valid", valid, "--repeats", 2]
    stdout = bench("train", *about_rows, *sizes, "--out", out).stdout
    found = json.loads(out.read_text(encoding="utf-8"))
    assert "log loss" in stdout
    assert found["valid"] == str(valid)
    for pipeline in ("own", "seed", "best"):
        middle, (low, high) = (column(found, pipeline)["log_loss"][name] for name in ("median", "spread"))
        assert low < middle < high, "another seed, another head"
        assert 1.0 < middle < 1.3, "hardly trained: about the log of 3"


def test_held_out_rows_that_ours_could_not_use_end_it(about_rows, sample_dir, tmp_path):
    lines = (sample_dir / "test_labels.csv").read_text(encoding="utf-8").splitlines()
    valid = tmp_path / "valid.csv"
    valid.write_text("\n".join([*lines[:20], lines[20].rsplit(",", 3)[0] + ",0,0,0"]) + "\n", encoding="utf-8")
    sizes = ["--steps", 1, "--dropout", 0, "--peers", "", "--valid", valid]
    said = bench("train", *about_rows, *sizes, code=11).stderr
    assert "--valid has 20 rows, of which 1 cannot be used" in said


def test_a_log_loss_of_our_best_step_is_not_put_beside_the_peers_last():
    question = TrainQuestion("", "", "", "", 8, 8, 0.0, "fp32", 0, with_log_loss=True)
    with pytest.raises(BenchError, match=r"its best step, 2 of 5.* Leave evaluate\.every_steps"):
        read_log_loss({"step": 2, "log_loss": 1.0, "num_rows": 1}, question, last_step=5)


def test_best_sorts_pools_of_fifty_batches_as_on_a_large_data_set():
    """Short and long rows in turn, ten batches: transformers alone would make four pools of so few rows."""
    from pref_dist.bench.best_trainer import LargePoolSampler

    lengths = [5, 90] * 20
    order = list(LargePoolSampler(4, lengths=lengths))
    assert sorted(order) == list(range(40))
    assert [lengths[row] for row in order] == [90] * 20 + [5] * 20


def test_a_wrong_setting_is_refused_before_any_process(about_rows):
    result = bench("train", *about_rows, "--set", "train.epoch=2", code=2)
    assert "did you mean 'epochs'" in result.stderr
    assert bench("train", "--dropout", "a,b", code=2).stderr.count("not numbers") == 1
    assert "Start bench without a launcher" in bench("train", code=2, env={"WORLD_SIZE": "2"}).stderr


def test_a_pipeline_that_cannot_run_leaves_no_hole(about_rows):
    """Our own alone, with rows that no micro-batch can hold."""
    options = ["--steps", "1", "--dropout", "0", "--peers", "", "--set", "train.token_budget=33"]
    result = bench("train", *about_rows, *options, code=11)
    assert "FAILED" in result.stdout
    assert "train.token_budget=33" in result.stderr
    assert "raise train.token_budget" in result.stderr


@pytest.mark.parametrize(
    ("verb", "least", "sent"),
    [
        (["train"], 1, signal.SIGHUP),
        (["cache", "--rows", "30000", "--processes", "2"], 3, signal.SIGTERM),  # with datasets.map's own processes
        (["scaling", "--rows-per-step", "8", "--valid-rows", "8"], 1, signal.SIGTERM),
    ],
    ids=["train", "cache", "scaling"],
)
def test_a_bench_that_is_told_to_end_leaves_no_process_and_no_folder(verb, least, sent, about_rows, short_folder):
    command = [sys.executable, "-m", "pref_dist", "bench", *verb, *about_rows]
    with subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(short_folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        parent, deadline = psutil.Process(process.pid), time.monotonic() + 100
        while not (started := find_measuring(parent, least)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.wait(60) == 130
    assert started, "a measurement had begun"
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    assert not list(short_folder.iterdir())


@pytest.fixture
def short_folder():
    """multiprocessing has sockets among its temporary files, and the path of one has at most 107 characters."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def find_measuring(parent, least):
    """Return all processes below it, once there are so many and one of them computes."""
    below = parent.children(recursive=True)
    try:
        is_at_work = any("pref_dist" in " ".join(one.cmdline()) and one.cpu_times().user > 1.5 for one in below)
    except psutil.NoSuchProcess:  # one has just ended
        return []
    return below if is_at_work and len(below) >= least else []


def test_evaluate_answers_every_row_and_pads_only_the_seeds(about_rows):
    result = bench("evaluate", *about_rows, "--rows", 24, "--peers", "seed", "--int8", "--json")
    found = json.loads(result.stdout)
    own, seed = column(found, "own"), column(found, "seed")
    assert own["rows"] == seed["rows"] == 24
    assert seed["padding_share"]["median"] == pytest.approx(1 - seed["tokens"] / (24 * MAX_TOKENS))
    assert column(found, "own int8")["rows"] == 24
    assert [(ratio["own"], ratio["peer"]) for ratio in found["ratios"]] == [("own", "seed"), ("own int8", "seed")]


def test_cache_reads_all_rows_and_more_where_they_are_asked_for(about_rows):
    found = json.loads(bench("cache", *about_rows, "--rows", 350, "--processes", 1, "--json").stdout)
    ways = {way["way"]: way for way in found["ways"]}
    assert set(ways) == {"own", "datasets.map", "own, warm"}
    assert all(
        way["rows"] == 350 and way["tree_bytes"]["median"] > 10**7 for name, way in ways.items() if "," not in name
    )
    assert ways["own, warm"]["seconds"]["median"] < ways["own"]["seconds"]["median"]
    assert found["ratios"]["datasets.map"] == pytest.approx(
        ways["datasets.map"]["seconds"]["median"] / ways["own"]["seconds"]["median"]
    )


def test_plan_times_every_row_of_an_epoch():
    found = json.loads(bench("plan", "--rows", 20_000, "--repeats", 1, "--json").stdout)
    assert found["rows"] == 20_000
    assert found["steps"] == -(-20_000 // 64)
    assert set(found["seconds"]) == {"made, with digest", "first 100 steps", "all steps of an epoch", "evaluation"}


def test_growth_fills_every_row_up_to_the_cap(about_rows):
    sizes = ["--over", "tokens", "--sizes", 128, "--steps", 2, "--rows-per-step", 3]
    found = json.loads(bench("growth", *about_rows, *sizes, "--json").stdout)
    (point,) = found["points"]
    assert 0.95 * 2 * 3 * 128 < point["tokens"] <= 2 * 3 * 128  # fair truncation rounds down
    assert point["training_seconds_a_token"] > 0


@pytest.mark.ranks
def test_scaling_runs_through_the_launcher(about_rows):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two ranks need two cores")
    options = ["--backends", "ddp", "--steps", 2, "--rows-per-step", 8, "--valid-rows", 8]
    found = json.loads(bench("scaling", *about_rows, *options, "--json").stdout)
    assert [(run["backend"], run["ranks"], len(run["train"])) for run in found["runs"]] == [
        ("ddp", 1, 1),
        ("ddp", 2, 1),
    ]
    (efficiency,) = found["efficiencies"]
    assert efficiency["train"] == pytest.approx(found["runs"][1]["train"][0] / found["runs"][0]["train"][0] / 2)
