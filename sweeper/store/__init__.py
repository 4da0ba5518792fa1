"""A sweep on disk: every path (`paths`), and everything that is written to the sweep's folder.

The store is the truth; Optuna's database and MLflow are views that can be rebuilt from it. Only the controller and
`reconcile` write, and only while they hold the sweep's lock.
"""
