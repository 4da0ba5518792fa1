"""One session of a sweep, from the configuration to the report: `run` plans, searches and reports."""
