"""Time, memory and what caching changes; how often a measurement is repeated by default.

The numbers stand here because the command line shows them before anything heavy is imported.
"""

DEFAULT_RUNS = 5
"""Measured runs of one configuration."""

DEFAULT_ROUNDS = 3
"""Measured rounds of a comparison, one run of every configuration each."""

DEFAULT_WARMUP = 1
"""Runs or rounds before them that are not measured."""
