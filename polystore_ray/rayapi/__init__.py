"""Everything that is asked of Ray itself: calls with deadlines, errors, placement, private APIs.

Private APIs of Ray are used in ``private`` alone, with the version they were read in.
"""
