"""One file per branch head, with the functions of `calex.plugins.contracts.Head`. To add one, copy `boostnet.py`."""
