from pathlib import Path

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks

pytestmark = pytest.mark.ranks


def test_ddp_exchanges_gradients_once_a_step_and_gives_their_sum():
    check_ranks_succeeded(run_ranks(Path(__file__).with_name("exchange_ranks.py"), world_size=2))


@pytest.mark.parametrize("also", [[], ["--outlive"]], ids=["engine_gone", "engine_outlives"])
def test_no_thread_of_a_group_is_left_after_it(also):
    # Where one was left, one rank in some 20 hung for ever, or one in some thousand aborted, as it ended.
    check_ranks_succeeded(run_ranks(Path(__file__).with_name("leaving_ranks.py"), world_size=2, args=also, timeout=60))
