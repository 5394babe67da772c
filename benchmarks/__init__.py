"""Measurements that stand in the documentation; each is a command that repeats them."""

from hart.utils.huge_pages import prefer_huge_pages

prefer_huge_pages()  # as the command line does
