"""Stage 6: one cell per student, mix and seed, trained by Ray Train and DeepSpeed."""
