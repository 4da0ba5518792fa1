"""The one definition of every figure that search, retention, terminal, report and MLflow share.

Pure functions of records: the best trial and its best rung, whether a gain is noise, the baselines, the time a study
took, alpha, the text of hyperparameters, the trial of the default recipe, the counts of failures. Reads no files and
no clock.
"""
