"""`heatserve bench load`: served models under callers and arrivals, and what nothing could serve faster, in one run.

- `messages`: requests, serialised once. `asking`: sends them, in a closed or an open loop, in a process of its own
  (`helper`).
- `floors`: a model that computes nothing, and ONNX Runtime without a server. `server_use`: what the server takes.
- `setting`: the server and its models. `windows`: one load for some seconds. `measure`: all of them in order.
- `targets`: what is to be reached. `third_party`: other load generators. `report`, `figure`: what a person reads.
"""
