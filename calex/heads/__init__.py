"""One file a branch head: `build(channels, height, width, **options)` maps a pooled tap to a vector."""
