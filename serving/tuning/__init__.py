"""Measures how a model is best run on the machine at hand, and writes the choice into its configuration."""
