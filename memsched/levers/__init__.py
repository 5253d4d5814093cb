"""The planner of every lever that lowers a peak: settings, moments, the ladder.  No torch."""
