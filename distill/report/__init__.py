"""Stage 8: the evidence of a run as numbers, one self-contained page and terminal tables."""
