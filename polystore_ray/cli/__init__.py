"""The command line ``polystore``: inspect and maintain a store.

``app`` is the command group, ``session`` the options that all commands share, ``cluster`` the
connection to Ray. Each other module holds commands, or prints. Nothing imports this package.
"""
