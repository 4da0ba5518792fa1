"""Which configuration is tried next, and which trial is pruned; the only package that imports Optuna.

`study.Search` decides from trials in memory, through ask and tell; a thread shows them in Optuna's database.
`pruning.rung_chunks` plans when trials are scored; `stored_study` reads and deletes what the database has. The other
modules serve these. Importing this package loads nothing; importing `study` loads Optuna, and torch only when the
Gaussian process proposes.
"""
