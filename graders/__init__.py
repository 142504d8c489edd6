"""Decide what a reward is: the scoring engine and the hosted graders.

No network, no clock, no framework: everything outside enters through the ports.
"""
