"""The full random campaigns of the solver: `python -m tests.campaign`; see `__main__`."""
