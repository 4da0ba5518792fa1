"""Everything people see of a sweep: progress, tables, the live view, summaries. Draws; decides nothing."""
