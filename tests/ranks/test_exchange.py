from pathlib import Path

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks


@pytest.mark.ranks
def test_ddp_exchanges_gradients_once_a_step_and_gives_their_sum():
    check_ranks_succeeded(run_ranks(Path(__file__).with_name("exchange_ranks.py"), world_size=2))
