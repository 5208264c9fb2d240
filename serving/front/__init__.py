"""The front: a process that answers the Open Inference Protocol over HTTP, and hands what is valid to Triton's gRPC.

- `process`: the front as a child process with sockets that it inherits.
- `main`: what that process runs; `lifecycle`: from its first connection to its last answer.
- `connections`: the limits of one connection; `routes`: from a path to an answer.
- `inference`: a request to a model, checked and answered; `tensors`: its tensors; `events`: answers as they come.
- `models`: what is served, and what it takes; `triton`: Triton over gRPC.
"""
