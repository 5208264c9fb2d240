"""Serving: Triton on certified models, its client, and what holds both to their contract."""
