"""What can be concluded from the scores of trials, and how sure it is. NumPy and SciPy only; reads no files.

`control` chooses and compares candidates with it, `analysis` writes the results down.
"""
