"""Writes files so that they survive a kill and a power failure, and translates the errors of disks. Knows no sweep."""
