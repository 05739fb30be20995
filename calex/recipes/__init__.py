"""One file a training recipe."""
