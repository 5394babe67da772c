"""Measurements that stand in the documentation; each is a command that repeats them."""
