"""One file a branch head, with the functions of `calex.plugins.contracts.Head`."""
