"""Searches of this project and of others on the same recorded trials, in virtual time and with equal device time."""
