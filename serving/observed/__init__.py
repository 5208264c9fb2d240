"""What is counted and logged while models are served: metrics for Prometheus, and a log of JSON lines.

- `families`: every metric of heatserve, with its labels and buckets.
- `recorder`: counts in one process, in a file that outlives it.
- `page`: what all processes counted, as Prometheus reads it.
- `logs`: events as JSON lines, bounded, which hold nobody up.
"""
