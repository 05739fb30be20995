"""Every training image counts the same for every branch."""

SEQUENTIAL = False
OPTIONS = {}  # type: ignore[var-annotated]
