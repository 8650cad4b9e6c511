"""How a store outlives its controller: epochs, the follower, and the takeover.

The package builds on ``controller``. ``actors`` uses it; ``cli`` asks it whether a store has ended.
"""
