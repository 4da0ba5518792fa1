"""Reads finished or running sweeps from the store and reports which configurations are best, and how certain that is.

Never trains and writes only reports. `sweeper.sweep.run` calls `sweeper.analysis.report.write_reports` at the end of a
sweep. The live view shares `sweeper.analysis.compare`, so that the screen and the report always agree.
"""
