"""One file a branch head, with the functions of `calex.contracts.Head`."""
