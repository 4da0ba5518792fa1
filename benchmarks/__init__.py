"""Measurements beside the scripts people write today. `python benchmarks/run.py` runs them; nothing of sweeper does."""
