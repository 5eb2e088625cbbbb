"""One measurement in a process of its own: `python -m pref_dist.bench PART`, the question as JSON on standard input.

What was measured is the one JSON line on standard output.
"""

import json
import os
import sys
from importlib import import_module

from pref_dist.bench.parts import PARTS
from pref_dist.errors import PrefDistError


def main() -> None:
    question_class, place = PARTS[sys.argv[1]]
    question = question_class(**json.load(sys.stdin))
    # Libraries print as they like; what the parent reads is not theirs.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, function = place.split(":")
    try:
        found = getattr(import_module(module), function)(question)
    except PrefDistError as error:  # a sentence for people; the place in the code tells them nothing
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(error.exit_code)
    with channel:
        channel.write(json.dumps(found) + "\n")
    sys.stderr.flush()
    os._exit(0)  # libraries' own ends can hang, and nothing is left to write


if __name__ == "__main__":
    main()
