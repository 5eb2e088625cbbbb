"""What each rank does in test_evaluation.py: answer a file's rows in several ways, one after another, in one process.

    python -m tests.ranks.inference_ranks RUN_DIR DATA OUT_DIR JOBS

JOBS is JSON: {name: [evaluate.swap, evaluate.swap_share, evaluate.token_budget]}. Rank 0 writes OUT_DIR/NAME.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    from pref_dist.cli.program import leave
    from pref_dist.evaluate.restore import read_run_config, restore_run
    from pref_dist.metrics import score_logits
    from pref_dist.run_dir import RunDir
    from pref_dist.runtime.parallel import start_parallel

    run_dir, data, out = RunDir(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    parallel = None
    for name, (swap, share, budget) in json.loads(sys.argv[4]).items():
        settings = (f"evaluate.swap={swap}", f"evaluate.swap_share={share}", f"evaluate.token_budget={budget}")
        config = read_run_config(run_dir, settings)
        parallel = parallel or start_parallel(config.parallel)
        run = restore_run(config, run_dir, None, parallel)
        table = run.open_rows(data)
        found = run.infer(table, np.arange(len(table), dtype=np.int64))
        scores = score_logits(found.logits.astype(np.float64), table.targets)
        second = {} if found.second is None else {"second": found.second}
        if parallel.is_main:
            np.savez(out / f"{name}.npz", first=found.first, logits=found.logits, **second, **scores)
    leave(0, 0)


if __name__ == "__main__":
    main()
