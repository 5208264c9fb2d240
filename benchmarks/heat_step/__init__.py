"""What a heat step costs in time and memory, beside Algorithm 1 as it is printed."""
