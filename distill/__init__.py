"""Mix distillation: prompts -> generate -> verify -> search -> mix -> train -> evaluate -> report, one folder each."""
