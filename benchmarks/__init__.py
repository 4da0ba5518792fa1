"""Compares sweeper with the scripts that people write today. `python benchmarks/run.py` runs it; sweeper does not."""
