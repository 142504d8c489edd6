"""Prove it: a package of its own, so that no foreign `tests` can stand in for it."""
