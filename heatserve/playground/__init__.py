"""The playground: a page on a running server, which shows what its radii promise and lets a visitor try to break them.

- `app`: the ASGI application; `answers`: what it answers; `guards`: which requests it takes at all; `page`: the
  page's own files.
- `server`: the models of the server, and whether it answers; `wire`: what the page sends, and what it is answered.
- `pictures`, `examples`: images that a visitor draws, drops or chooses, and noise and other changes of them.
- `attacks`, `verdicts`, `working`: searches that follow gradients, what their ends mean, and one of them at a time.
"""
