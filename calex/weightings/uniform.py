"""Every training image counts the same for every branch."""

SEQUENTIAL = False
