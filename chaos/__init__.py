"""Fault injection: kills and disturbs sweeps at seeded moments, and checks that nothing was lost. See `run`."""
