"""What the benchmarks measure, as frozen dataclasses, and how their JSON files are written and read."""
