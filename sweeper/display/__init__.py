"""What a person sees of a sweep: progress, tables, the live view, summaries. Draws and decides nothing."""
