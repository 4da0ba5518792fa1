"""Replays searches without training: the real controller on curves of recorded trials, in virtual time.

`base` says what a response is, `table` reads recorded trials, `response` turns them into curves for any configuration,
`study` runs a search on them.
"""
