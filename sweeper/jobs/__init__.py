"""Scheduled searches: jobs are read from YAML, run in their time windows, and installed in a scheduler.

`sweeper.cli` mounts ``sweeper jobs`` from `sweeper.jobs.cli`. Nothing here trains or searches: `runner` calls
`sweeper.sweep.run`.
"""

from __future__ import annotations
