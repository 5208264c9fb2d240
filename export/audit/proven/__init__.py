"""An audit of a deterministic certificate: its proof made again from the bytes of the graph, and attacks within radii.

`walk` reads the operators of the network, `form` those of the certificate, `bound` proves; `crafted` judges what an
attack found by the served graph; `audit` has the verdict, `report` prints it, `page` writes it.
"""
