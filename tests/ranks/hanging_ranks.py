"""Train on these ranks; rank 0 is slow at one step and hangs at a later one, while its other threads live."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from pref_dist.config.load import load_config
from pref_dist.errors import PrefDistError
from pref_dist.train.assemble import TrainOptions
from pref_dist.train.run import train

SLOW_STEP, SLOW_SECONDS, HANGING_STEP = 3, 7.0, 6


def hang_for_ever() -> None:
    while True:
        time.sleep(1)


def show_step(record: dict[str, Any]) -> None:
    if record["step"] == SLOW_STEP:
        time.sleep(SLOW_SECONDS)
    if record["step"] == HANGING_STEP:
        hang_for_ever()


if __name__ == "__main__":
    try:
        train(load_config(Path(sys.argv[1]), sys.argv[2:]), TrainOptions(show_step=show_step))
    except PrefDistError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)
