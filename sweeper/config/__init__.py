"""What was asked: composes and checks the configuration.

The only package that imports Hydra. `settings` has every key as a field of a dataclass, `keys` what each key means and
may be, `checks` the rules between keys, `space` the search space, `time_windows` and `time_limit` when a sweep may run.
"""
