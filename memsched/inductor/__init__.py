"""The end that touches PyTorch: scheduler passes, fusion choices, the backend, measured bytes."""
