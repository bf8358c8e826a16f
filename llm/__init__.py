"""StackelbergGDA and its rivals on real language models."""
