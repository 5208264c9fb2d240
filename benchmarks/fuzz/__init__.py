"""Fuzzing a served model: mutated requests, cancellations, hostile connections; the next valid request is answered."""
