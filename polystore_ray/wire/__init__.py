"""Data that travels between processes: requests, values and classes, and their safe decoding.

The package imports only ``errors``; neither Ray nor a controller. Every package above may import
it.
"""
