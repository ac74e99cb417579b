"""Beside the pipeline: what a run will take, whether it can begin, and how it gets to a cluster."""
