"""Own answers of trained students: written by an engine, scored by their teachers, and kept beside the cell."""
