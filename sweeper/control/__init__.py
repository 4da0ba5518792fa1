"""The control loop: sends chunks to workers, records their reports, recovers from lost workers, and stops in time.

`controller` runs studies (`study_run`) on workers. It depends on executors, searches and trackers only by their
protocols.
"""
