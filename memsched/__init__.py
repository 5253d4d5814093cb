"""memsched: less peak memory for compiled PyTorch graphs, and a proof of how close to the least it is."""

__version__ = "0.1.0"
