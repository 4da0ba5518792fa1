"""Reads finished or running sweeps from the store and says which settings are best, and how sure that is.

Never trains, never writes anything but reports. `sweeper.sweep.run` calls `sweeper.analysis.report.write_reports` at the end of a
sweep; the live view shares `sweeper.analysis.compare`, so that the screen and the report never disagree.
"""
