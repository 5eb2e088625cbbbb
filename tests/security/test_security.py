"""Every probe of tests/security/table.py is blocked; `python -m tests.security` prints them with the count."""

import pytest

from tests.security.table import PROBES
from tests.security.world import make_world, of_probe


@pytest.fixture(scope="module")
def world(tmp_path_factory, sample_dir, tiny_model):
    return make_world(tmp_path_factory.mktemp("security"), sample_dir, tiny_model)


@pytest.mark.parametrize("name", PROBES)
def test_the_attempt_is_blocked(world, name, tmp_path):
    PROBES[name](of_probe(world, tmp_path))


def test_there_are_probes_of_every_kind():
    assert len(PROBES) >= 60
