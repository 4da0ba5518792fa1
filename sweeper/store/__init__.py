"""What is on disk: every path, and everything that is written to a sweep's folder.

The store is the truth; Optuna's database and MLflow are views that can be rebuilt from it. Only the controller writes,
while it holds the sweep's lock.
"""
