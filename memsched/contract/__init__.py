"""What memsched relies on in PyTorch's private parts, as a table, and a check of it against sources."""
