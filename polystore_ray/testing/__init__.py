"""The fault kit: break a cluster on purpose, record what clients see, and check it.

`polystore_ray.testing.chaos` puts the parts together; ``make chaos`` runs it.
"""
