"""Stage 4, search: finds the weights of arms with `weights = "auto"`."""
