"""Attacks on a served model: distances of PGD and DDN, inputs whose served radius is wrong, and defences."""
