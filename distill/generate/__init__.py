"""Stage 2, generate: which trace to request next (ask_policy), how a prompt is asked (asker), the kinds of teacher."""
