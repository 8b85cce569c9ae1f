"""Where a federation runs: in this process (`local.py`)."""
