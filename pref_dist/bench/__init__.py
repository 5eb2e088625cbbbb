"""Measures of this machine: our pipeline beside what users would pick, each in a process of its own.

The parent (`train`, `evaluate`, `cache`, `plan`, `scaling`, `growth`) never imports torch: it writes the rows, lets
`children` start one fresh process a measurement, pipelines taking turns, and compares medians. What a process does
stands in `parts`.
"""
