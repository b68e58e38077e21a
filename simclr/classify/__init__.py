"""Vectors and labels in, classes and measures out. Runs without torch."""
