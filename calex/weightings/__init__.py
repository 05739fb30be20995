"""One file a weighting, with the functions of `calex.plugins.contracts.SequentialWeighting`, or with none.

It may also have `diagnosis(validation, u, **options)`, with the u of all views (V, N): numbers by name, for
`weights{k}.json`, and warnings, one line each.
"""
