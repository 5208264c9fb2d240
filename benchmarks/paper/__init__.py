"""The paper's evaluation: its systems trained, certified and attacked on any data set, its tables and its figures.

`training` makes the networks, `certifying` says what they answer, `attacking` how far attacks go; `recipes` says how
for each data set. `speed` is Table 2, `line` and `plane` are Figures 4 and 3. What is measured is in
`heatserve.benchmarks.records`: `paper`, `table2` and `line`; what the paper printed, in `published`.
"""
