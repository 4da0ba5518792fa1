"""Compares store, Optuna and MLflow trial by trial (`reconcile`), and repairs what differs."""
