"""Slurm: what `pref-dist slurm` writes, submits, follows and ends."""
