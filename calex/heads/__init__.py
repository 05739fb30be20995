"""One file a branch head: `build(channels, height, width, **options)` maps a pooled tap to a vector of size `.width`.

A head may also have `together(cores, feature_map)`, if it can run several of its modules over one map faster than one by
one.
"""
