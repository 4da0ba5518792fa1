"""Writes files so that they survive kills and power failures, locks them, and translates the errors of disks."""
