"""Hostile graders, run for real: what is expected, and that nothing else happened."""
