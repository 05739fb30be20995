"""Frozen classifiers: building one, its weights, its taps, what each stage costs."""
