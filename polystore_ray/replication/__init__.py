"""How a store outlives its controller: epochs, the follower, and the take-over.

It builds on ``controller``; only the actors use it.
"""
