"""Stage 4, first half: weights of arms with `weights = "auto"`."""
