"""The loop: hands chunks to workers, records what they report, recovers from lost workers, stops in time.

`controller` runs studies (`study_run`) on workers. It knows executors, searches and trackers by their protocols only.
"""
