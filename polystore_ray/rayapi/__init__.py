"""The layer around Ray's API: calls with deadlines, errors, placement, metrics, private parts.

Only ``private`` uses private APIs of Ray; it names the version in which they were read.
"""
