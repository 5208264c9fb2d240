"""The conformance suite: whether every engine keeps what the certificate promises, by float64 numpy."""
