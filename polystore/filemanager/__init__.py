"""The file manager: one object that sends each call to the backend that it names.

``manager`` is what users hold, ``copying`` moves values between backends, and ``dispatch`` finds
the backend of a call. The package imports the contract and the registry, never a backend.
"""

from polystore.filemanager.manager import IMAGE_EXTENSIONS, FileManager

__all__ = ["IMAGE_EXTENSIONS", "FileManager"]
