"""What everything rests on: errors, rows, the run directory, events, metrics, progress."""
