"""Where definitions are written: examples, checks, probes, mutants, scaffolds, releases.

Works on folders of definitions and on the ports it is given; serves nothing.
"""
