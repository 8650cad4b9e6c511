"""The command line ``polystore``: look into a store, and look after it."""
