"""The paper's evaluation: its systems trained, certified and attacked on any data set, its tables and its figures.

`training` makes the networks, `certifying` says what they answer, `attacking` how far attacks go; `recipes` says how
for each data set. What is measured is in `heatserve.benchmarks.records.paper`; what the paper printed, in `published`.
"""
