"""Transfer values between two backends: copies of many values, and stacks of arrays.

``copying`` and ``stacking`` load and save within this process, unless a backend sends its values
itself; ``proxies`` says how such a backend is recognized. The package imports the contract, never
a backend. The file manager and the hosts of polystore_ray import it.
"""
