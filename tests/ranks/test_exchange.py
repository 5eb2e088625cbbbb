from pathlib import Path

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks

pytestmark = pytest.mark.ranks


def test_ddp_exchanges_gradients_once_a_step_and_gives_their_sum():
    check_ranks_succeeded(run_ranks(Path(__file__).with_name("exchange_ranks.py"), world_size=2))


def test_nobody_waits_for_the_thread_of_a_group_that_an_engine_outlives():
    # One rank in some 20 to 40 hung for ever when DDP's reducer was collected after the group had been left.
    check_ranks_succeeded(run_ranks(Path(__file__).with_name("leaving_ranks.py"), world_size=2, timeout=60))
