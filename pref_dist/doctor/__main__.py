"""One group of checks in a process of its own: `python -m pref_dist.doctor GROUP`, the question on standard input.

It says on standard output, a JSON line each, which check it begins and what was found.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pref_dist.doctor.checks import GROUPS
from pref_dist.doctor.finding import Check, Finding, Question


def main() -> None:
    values = json.load(sys.stdin)
    question = Question(values["run_yaml"], tuple(values["overrides"]))
    # Libraries print as they like; what the parent reads is not theirs.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    for check in GROUPS[sys.argv[1]]:
        tell({"begin": check.name})
        carry_out(check, question, tell)
    tell({"end": True})
    os._exit(0)  # libraries' own ends can hang, and nothing is left to write


def carry_out(check: Check, question: Question, tell: Callable[[dict[str, Any]], None]) -> None:
    """Tell of each finding at once, so that what comes before a crash is known."""
    try:
        for finding in check.look(question):
            tell({"finding": asdict(finding)})
    except Exception as error:  # a check that fails is a finding, whatever it met
        place = traceback.extract_tb(error.__traceback__)[-1]
        seen = f"the check failed: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        remedy = "Mend what it names; if nothing is wrong there, report it."
        tell({"finding": asdict(Finding(check.name, "error", seen, remedy))})


if __name__ == "__main__":
    main()
