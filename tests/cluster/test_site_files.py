"""Site files: small, strict, with a remedy for what is wrong."""

import pytest

from pref_dist.cluster.site import Site, load_site
from pref_dist.errors import ConfigError
from tests.ranks.launch_ranks import REPO_ROOT


def write(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_names_every_key_and_is_valid():
    example = REPO_ROOT / "configs" / "sites" / "example.yaml"
    assert load_site(example).num_ranks == 8
    text = example.read_text(encoding="utf-8")
    assert [key for key in Site.model_fields if f"\n{key}:" not in text] == []


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_site(write(tmp_path, "")) == Site()


def test_without_gpus_a_node_has_one_rank_unless_it_is_told(tmp_path):
    assert load_site(write(tmp_path, "gpus_per_node: 0")).num_ranks == 1
    assert load_site(write(tmp_path, "gpus_per_node: 0\nranks_per_node: 3")).num_ranks == 3


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("partitoin: gpu", "did you mean 'partition'?"),
        ("colour: red", "known keys: partition, "),
        ("nodes: 0", "nodes: Input should be greater than 0 (found: 0)"),
        ("nodes: two", "found: 'two'"),
        ("time: 24:00:00", "write it in quotes"),
        ("time: tomorrow", "Slurm's times are"),
        ("memory_per_node: lots", "a number with K, M, G or T"),
        ('setup: ["#SBATCH --exclusive"]', "Slurm does not read #SBATCH lines after the first command"),
        ('setup: ["module load cuda\\nrm x"]', "one item a line"),
        ("setup: module load cuda", "should be a valid list"),
        ("- partition", "should be a valid dictionary"),
        ("partition: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(tmp_path, text, remedy):
    with pytest.raises(ConfigError) as caught:
        load_site(write(tmp_path, text))
    assert remedy in str(caught.value)
    assert "site.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        load_site(tmp_path / "none.yaml")
