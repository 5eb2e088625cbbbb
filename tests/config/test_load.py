from pathlib import Path

import pytest
import yaml

from pref_dist.config.load import all_keys, list_changes, load_config, render_config, with_values
from pref_dist.config.schema import CHANGEABLE, RunConfig
from pref_dist.errors import ConfigError

ROOT = Path(__file__).parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_config_survives_being_written_and_read_again(tmp_path):
    config = load_config(None, ["train.learning_rate=3e-5", "data.valid=v.csv", "train.clip_norm=null"])
    assert load_config(write(tmp_path, render_config(config))) == config


@pytest.mark.parametrize("text", ["2e-5", "2.0e-5", "0.00002", "2E-05"])
def test_numbers_are_read_as_people_write_them(text):
    assert load_config(None, [f"train.learning_rate={text}"]).train.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rat=1", "did you mean 'learning_rate'"),
        ("train.world_size=2", "did you mean 'parallel.world_size'"),
        ("trian.epochs=1", "did you mean 'train'"),
        ("train.epochs=0", "train.epochs: .*greater than 0 .*found: 0"),
        ("train.epochs=abc", "train.epochs: .*found: 'abc'"),
        ("train.precision=fp8", "train.precision: .*fp32.*found: 'fp8'"),
        ("train.epochs", "section.key=value"),
        ("train.clip_norm=.inf", "train.clip_norm"),
        ("train.initial_loss_scale=3", "power of two"),
        ("data.valid_fraction=1.5", "data.valid_fraction"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_a_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError, match="2 wrong settings") as error:
        load_config(None, ["train.epochs=0", "model.nam=x"])
    assert "train.epochs" in str(error.value)
    assert "model.nam" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 1}\ntrain: {epochs: 2}\n", "'train' stands twice"),
        ("- a\n", "must hold sections"),
        ("train: [", "not valid YAML"),
        ("train: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.epochs = 3


def test_changes_that_matter_are_listed_and_others_are_not():
    old = RunConfig()
    assert list_changes(old, with_values(old, parallel__world_size=4, train__keep_last=9)) == []
    assert list_changes(old, with_values(old, train__epochs=4)) == ["train.epochs: 1 -> 4"]


def test_every_key_is_documented_and_the_changeable_ones_exist():
    assert set(all_keys()) >= CHANGEABLE
    for section in RunConfig.model_fields.values():
        assert all(field.description for field in section.annotation.model_fields.values())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_run_config_in_the_repository_is_valid_and_short(path):
    load_config(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_an_override_may_set_a_key_of_an_optional_section_that_stands_as_null(tmp_path):
    """As it does in every resolved config."""
    path = tmp_path / "run.yaml"
    path.write_text(render_config(RunConfig()), encoding="utf-8")
    lora = load_config(path, ["model.lora.rank=4"]).model.lora
    assert lora is not None
    assert lora.rank == 4
