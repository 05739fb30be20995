"""A trained cascade as something that answers: cut into stages, routed for real, saved as files, exported, timed."""
