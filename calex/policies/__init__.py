"""One file a policy: it turns exits into thresholds and never retrains a branch.

`parameters(**options)` gives the P operating points that are swept, cheapest first, each a dictionary of numbers;
`thresholds(exits, parameters, correct, **options)` gives (P, K, C) float64 from the exits of validation images: an image
leaves at branch k if its score there is at least that of the class it answers. −∞ lets every image go, +∞ none.

A policy may have two things more. `diagnosis(exits, **options)` gives what it knows about whether these images are enough to
choose thresholds from: numbers by name, for `{policy}.calibration.json`, and warnings, one line each. `REMEDY` says what else
than more validation images helps where they are not.
"""
