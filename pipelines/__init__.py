"""The jobs: each one wires the rooms of the library together.

``pipelines.live`` is the function, also where a submodule of that name exists: import the submodule's other names
with ``from pipelines.live import ...``.
"""

from pipelines.live import LiveRun, live

__all__ = ["LiveRun", "live"]
