"""`sweeper plan`: parameters, memory, disk space, time and money of a sweep, before anything runs.

`inputs` reads what is there (config.json, and rows where they are at hand), `prediction` computes, `tables` shows. The
arithmetic of memory is in `sweeper.figures.memory`, since workers predict with it, too. Nothing is loaded or trained.
"""
