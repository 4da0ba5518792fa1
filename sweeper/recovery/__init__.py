"""Compares store, Optuna and MLflow trial by trial, and repairs what differs (`reconcile`)."""
