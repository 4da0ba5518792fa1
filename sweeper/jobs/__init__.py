"""Scheduled searches: jobs read from YAML, run in their window, and handed to a scheduler.

The top layer: `sweeper.cli` hangs ``sweeper jobs`` in. Nothing here trains or searches; `runner` calls `sweeper.sweep.run`.
"""

from __future__ import annotations
