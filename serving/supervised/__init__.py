"""A server that is kept up: what runs is watched, started again where it fails, and ended in order."""
