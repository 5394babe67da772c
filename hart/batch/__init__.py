"""Many prompts, on one process or several, in a folder that survives being interrupted."""
