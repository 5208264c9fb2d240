"""The sections of the report: each takes the evidence, and gives what it supports; None where there is none."""
