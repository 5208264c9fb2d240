"""The Triton model repository: its layout, its versions and their cards, and how each model is run."""
