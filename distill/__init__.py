"""Mix distillation: prompts -> generate -> verify -> mix -> train -> evaluate -> report, one file per stage."""
