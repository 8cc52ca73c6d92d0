"""The jobs: each one wires the rooms of the library together.

``pipelines.live`` and ``pipelines.label`` are the functions, also where a submodule of that name exists: import the
submodule's other names with ``from pipelines.live import ...``.
"""

from pipelines.label import LabelRun, label
from pipelines.live import LiveRun, live

__all__ = ["LabelRun", "LiveRun", "label", "live"]
