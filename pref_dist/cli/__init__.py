"""The click program: `pref-dist VERB ...` and `python -m pref_dist VERB ...`.

A verb's file parses, calls one function of floor 3, and prints. Nothing heavy is imported before a
verb really runs, so that --help is instant.
"""

from pref_dist.cli.program import main

__all__ = ["main"]
