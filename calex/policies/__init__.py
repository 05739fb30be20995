"""One file a policy, with the functions of `calex.plugins.contracts.Policy`: it turns exits into thresholds and retrains nothing.

A policy may have two things more. `diagnosis(exits, **options)` gives what it knows about whether these images are enough to
choose thresholds from: numbers by name, for `{policy}.calibration.json`, and warnings, one line each. `REMEDY` says what else
than more validation images helps where they are not.
"""
