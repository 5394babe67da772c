"""HART's helpers of the same path, which cannot be imported there either."""

raise ImportError(
    "hart.modules.utils does not exist here: nothing in HART uses it, and HART's own package of "
    "that name cannot be imported, because it needs hart.train.utils, which was never published"
)
