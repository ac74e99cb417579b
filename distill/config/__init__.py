"""What a recipe can say: one file a section, its fields and its rules together. Imports no ray, torch or vllm."""
