"""One definition of every figure that search, retention, screen, report and MLflow show.

Pure functions of records: which trial is best, how long a study took, what alpha is, how hyperparameters are written,
which trial is the default recipe, how failures are counted. Reads no file and no clock.
"""
