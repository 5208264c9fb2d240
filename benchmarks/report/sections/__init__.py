"""The sections of the report: each takes the reported, and gives what it supports; None where there is none."""
