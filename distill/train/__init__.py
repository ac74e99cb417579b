"""Stage 5: one cell per student, mix and seed, trained by Ray Train and DeepSpeed."""
