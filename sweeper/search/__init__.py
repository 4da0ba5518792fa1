"""Which setting is tried next, and which trial is stopped early; the only importer of Optuna.

`study.Search` wraps one Optuna study through ask and tell, `pruning.rung_chunks` says when trials are scored. The rest
of the package is theirs. Importing this package loads nothing; importing `study` loads Optuna, and torch only when
the Gaussian process is asked.
"""
