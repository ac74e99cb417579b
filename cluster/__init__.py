"""Where it runs: the Ray session, placement and queues. Knows nothing of distillation."""
