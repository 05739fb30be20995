"""Early exits for frozen image classifiers: features once, then branches, thresholds and honest curves.

Importing this package imports nothing heavy; every step imports only what it needs.
"""

__version__ = "0.1.0"
