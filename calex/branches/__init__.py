"""Branches as torch modules, and the loop that trains them."""
