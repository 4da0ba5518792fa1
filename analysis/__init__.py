"""Reads finished or running sweeps from the store, and reports which configurations are best and how certain this is.

Trains nothing and writes only reports. `sweeper.sweep.run` calls `sweeper.analysis.report.write_reports` after every
session. All figures come from `sweeper.figures`, as those of the terminal do, so both always agree.
"""
