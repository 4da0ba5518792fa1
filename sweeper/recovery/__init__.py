"""Compares store, Optuna and MLflow trial by trial, and repairs the differences (`reconcile`)."""
