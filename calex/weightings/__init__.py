"""One file a weighting: how much each training image counts for a branch.

`SEQUENTIAL = True` says that it looks at the branches before: then branches train one after the other, and
`survival(validation, train, correct, **options)` gives u (N,) from the exits of branches 1..k−1, and
`weights(u, **options)` the weights of all views together, with mean 1.

It may also have `diagnosis(validation, u, **options)`, with the u of all views (V, N): numbers by name, for
`weights{k}.json`, and warnings, one line each.
"""
