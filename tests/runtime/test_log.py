import json

from pref_dist.runtime.log import MetricsLog


def test_lines_after_a_step_and_a_line_that_was_cut_short_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, is_main=True)
    for step in (1, 2, 3, 4):
        log.append({"step": step, "loss": 1.0 / step})
    log.append({"step": 2, "log_loss": 0.5})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 1, "lo')
    log.cut_back(2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 2]


def test_numbers_that_json_cannot_hold_become_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", is_main=True)
    log.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "grad_norm": None}


def test_other_ranks_write_nothing(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", is_main=False).append({"step": 1})
    assert not (tmp_path / "metrics.jsonl").exists()
