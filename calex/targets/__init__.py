"""One file a target, with the function of `calex.plugins.contracts.Target`: what a branch learns."""
