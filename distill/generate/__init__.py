"""Teachers: who is asked what and when (policy), how one prompt is asked (ask), and the kinds that answer."""
