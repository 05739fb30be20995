"""One file a target, with the function of `calex.contracts.Target`: what a branch learns."""
