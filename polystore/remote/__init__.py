"""Trees of zarr arrays and files in stores that URLs name, through fsspec."""
