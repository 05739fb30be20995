"""One file a policy, with the functions of `calex.plugins.contracts.Policy`: it turns exits into thresholds and retrains nothing.

`REMEDY` says what else than more validation images helps where these are not enough to choose from.
"""
