"""Commands for a bare GPU machine: it has torch, torchvision, numpy, scipy and safetensors, perhaps for minutes only.

    python -m heatserve.benchmarks.gpu speed --out gpu

Everything can be interrupted and goes on where it stopped. What comes out are checkpoints, and the JSON files that
`heatserve bench pages` reads from benchmarks/results/gpu/. docs/guide/gpu.md says what to copy and what comes back.
"""
