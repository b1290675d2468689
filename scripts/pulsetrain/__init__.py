"""Library of pulsetrain: algorithms on arrays, file layouts and numba kernels. Knows nothing of Snakemake."""

__version__ = "0.1.0"
