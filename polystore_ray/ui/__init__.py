"""The page to look at a store: a read-only web application (the extra ``ui``).

``server`` runs it, ``app`` has its addresses, ``access`` decides who may use it. ``overview``,
``listing``, ``values`` and ``web_zarr`` answer its questions; ``assets`` is what the browser gets.
The command line and `RayBackendRegistry.ui` import this package when they need it; nothing else
does.
"""
