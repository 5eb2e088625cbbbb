"""Promise 1, measured: every back-end, number of ranks, cut, clipping and precision against one process.

`bash launch/parity.sh` measures all of it and writes docs/parity.md; tests/ranks/test_parity.py a part.
"""
