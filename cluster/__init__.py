"""Where runs execute: Ray session, nodes, storage, placement and scheduling. Knows nothing of distillation."""
