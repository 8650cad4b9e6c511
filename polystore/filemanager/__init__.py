"""The file manager: one object that sends each call to the backend that the call names.

``manager`` is the class that users hold, ``copying`` copies and moves values between backends,
``mapping`` calls a function with each of many values,
``options`` checks the options of a call, and ``dispatch`` finds its backend. The package imports
the contract in ``base`` and no backend. Within the project, only ``testing`` imports it.
"""

from polystore.filemanager.manager import IMAGE_EXTENSIONS, FileManager

__all__ = ["IMAGE_EXTENSIONS", "FileManager"]
