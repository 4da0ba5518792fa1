"""Everything a sweep prints or summarizes: progress, tables, live view, summaries. Formats results, decides nothing."""
