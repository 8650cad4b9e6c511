"""What travels between processes: requests, values, classes, and how they are decoded safely.

It imports nothing that runs, neither Ray nor a controller; every layer above may import it.
"""
