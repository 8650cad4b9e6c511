"""TIFF files: their tags are read and checked before any pixel is decoded.

``pages`` reads what a file says of itself, ``segments`` decodes strips and tiles, ``writing``
encodes, and ``format`` joins them to one `Format`. Only the registry of formats imports it.
"""
