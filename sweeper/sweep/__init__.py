"""Runs a session of a sweep, from the configuration to the report (`run`), and trains a trial again (`reproduce`)."""
