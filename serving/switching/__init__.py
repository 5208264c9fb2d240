"""Switching a running server to another version of a model: tried first, then switched under load, or taken back."""
