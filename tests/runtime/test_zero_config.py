"""runtime/zero_config.py: DeepSpeed files hold the ZeRO section alone, and each is the back-end of its name."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from pref_dist.config.schema import Backend
from pref_dist.errors import ConfigError
from pref_dist.runtime.engine import EngineSettings
from pref_dist.runtime.zero_config import BACKENDS, compose_deepspeed_config, find_backend, read_zero_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs/deepspeed"
FP32 = EngineSettings(precision="fp32", clip_norm=1.0)


def write_file(folder: Path, content: Any) -> Path:
    path = folder / "zero.json"
    path.write_text(json.dumps(content))
    return path


def test_the_files_the_table_and_the_schema_name_the_same_backends() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(BACKENDS)
    assert set(BACKENDS) == {name for name in get_args(Backend) if name.startswith("zero")}


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_file_describes_the_backend_that_it_is_named_after(backend: str) -> None:
    assert find_backend(CONFIGS / f"{backend}.json") == backend


@pytest.mark.parametrize(
    ("key", "value", "home"),
    [
        ("fp16", {"enabled": True}, "train.precision"),
        ("gradient_clipping", 0.5, "train.clip_norm"),
        ("train_batch_size", 64, "train.rows_per_step"),
        ("gradient_accumulation_steps", 4, "train.token_budget"),
        ("activation_checkpointing", {}, "run config"),
    ],
)
def test_a_setting_of_the_run_config_in_a_deepspeed_file_is_an_error(
    tmp_path: Path, key: str, value: Any, home: str
) -> None:
    path = write_file(tmp_path, {"zero_optimization": {"stage": 2}, key: value})
    with pytest.raises(ConfigError) as caught:
        read_zero_file(path)
    assert all(text in str(caught.value) for text in (str(path), f"{key}={json.dumps(value)}", "run config", home))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"stage": 4}, "stage 4"),
        ({}, "stage None"),
        ({"stage": 1, "offload_optimizer": {"device": "cpu"}}, "stage 1, offload cpu"),
        ({"stage": 3, "offload_optimizer": {"device": "nvme"}}, "offload_optimizer.device=nvme"),
        ({"stage": 3, "offload_param": {"device": "cpu"}}, "offload_optimizer"),
        ({"stage": 3, "zero_quantized_gradients": True}, "zero_quantized_gradients=true"),
    ],
)
def test_a_section_that_is_no_backend_is_an_error(tmp_path: Path, section: dict[str, Any], said: str) -> None:
    path = write_file(tmp_path, {"zero_optimization": section})
    with pytest.raises(ConfigError) as caught:
        find_backend(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"zero_optimization": 2}'])
def test_a_file_without_a_zero_section_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "zero.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"zero\.json"):
        read_zero_file(path)


def test_a_missing_file_is_an_error_that_says_who_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="deepspeed_config_file"):
        read_zero_file(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("clip_norm", "written"), [(None, 0.0), (0.5, 0.5)])
def test_clipping_and_batch_sizes_come_from_the_run_config(clip_norm: float | None, written: float) -> None:
    config = compose_deepspeed_config({"stage": 2}, EngineSettings("fp32", clip_norm), world_size=4)
    assert config["gradient_clipping"] == written
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (4, 1)
    assert not {"fp16", "bf16", "torch_autocast"} & set(config)


def test_fp16_starts_from_the_loss_scale_of_the_run_config() -> None:
    settings = EngineSettings("fp16", None, initial_loss_scale=2.0**12, loss_scale_growth_interval=7)
    section = compose_deepspeed_config({"stage": 1}, settings, world_size=1)["fp16"]
    assert (section["initial_scale_power"], section["loss_scale_window"], section["hysteresis"]) == (12, 7, 1)


def test_without_sharing_clipping_and_the_loss_scale_are_not_deepspeeds() -> None:
    config = compose_deepspeed_config({"stage": 0}, EngineSettings("fp16", 0.5), world_size=2)
    assert config["gradient_clipping"] == 0.0
    assert "fp16" not in config
    assert config["torch_autocast"]["dtype"] == "float16"
