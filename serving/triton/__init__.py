"""Triton on this machine: found, given verified models, started, watched and ended."""
