"""Composes and checks the configuration that the user asked for.

The only package that imports Hydra. `settings` declares every key as a field of a dataclass, `keys` gives its meaning
and its allowed values, `checks` has the rules between keys, `space` the search space, and `time_windows` and
`time_limit` the times at which a sweep may run.
"""
