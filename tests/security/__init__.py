"""Attempts to do harm by what a stranger hands over: models, data, names, run folders. `python -m tests.security`."""
