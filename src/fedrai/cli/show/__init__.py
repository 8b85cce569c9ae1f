"""What a terminal shows: progress, tables, and figures in sentences."""
