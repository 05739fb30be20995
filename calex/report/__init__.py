"""The report of one dataset, in parts: tables and claims as data, their wording, the chart, and what puts them on pages.

`build` makes all files of a report; `benchmarks_page` the page of the benchmarks. Nothing is imported here, so that a
step depends on the parts that it uses and on no others.
"""
