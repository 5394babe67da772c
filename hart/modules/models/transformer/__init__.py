"""HART's transformer and its configuration classes."""
