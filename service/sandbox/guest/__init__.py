"""What runs in the grader interpreter: zygotes and the leaf that executes one call.

The grader interpreter is not the service's: nothing here may import anything but the standard library and
its own siblings, relatively, so that the folder works for any interpreter that can read it.
"""
