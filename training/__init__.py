"""Data, architectures, losses and loops: from images to a checkpoint (needs torch).

The public names are in the modules of their subject (`data`, `architectures`, `checkpoint`, `heat`, `recipes`, …), not
here: importing this package must stay free of torch, because the command line of a serving machine imports it.
"""
