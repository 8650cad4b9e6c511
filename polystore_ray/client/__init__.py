"""What runs in the process of a user: the cluster memory and the hosted backends as backends.

``memory`` and ``hosted`` keep the contract of ``polystore``; the rest of the package serves them.
It talks to the cluster through ``transport`` alone and never imports Ray.
"""
