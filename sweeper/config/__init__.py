"""What was asked: composes and checks the configuration.

`compose` alone imports Hydra. `settings` holds every key as a dataclass, `keys` what each key means and may be, `checks`
the rules between keys, `space` the search space, `time_windows` and `time_limit` when a sweep may run. Reads YAML files
of configuration groups and writes nothing.
"""
