"""Sweeps that are killed, starved and lied to at seeded moments, and the checks that nothing was lost. See `run`."""
