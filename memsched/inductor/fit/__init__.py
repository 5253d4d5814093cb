"""Levers pulled to a budget: each setting planned as a compile would, by the real peak of its graphs."""
