"""TIFF files: tags are read and checked before any pixel is decoded.

``pages`` reads tags and metadata, ``segments`` decodes strips and tiles, ``writing`` encodes, and
``format`` combines them to one `Format`. Only the registry of formats imports this package.
"""
