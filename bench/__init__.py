"""Side by side with pinned peers, on this machine. Not part of the package; see docs/benchmarks.md.

`python -m bench run [NAME ...]` measures, `python -m bench report` writes docs/benchmarks.md from bench/results.
The modules that a peer's process runs import nothing of tomoni: they live in another environment.
"""
