"""Which step runs next, and when a frame's refinement ends.

Pure logic over an engine, slots and a clock, so that the very same code runs on a camera, on a fake clock in the tests,
and in simulations.
"""

from __future__ import annotations

from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.background import Background
from stream_ann.scheduler.named import DEFAULT_PATH, chosen_path, path_named
from stream_ann.scheduler.paths import Choice, InOrder, Outlook, Path, PathName
from stream_ann.scheduler.planned import Planned, Steady
from stream_ann.scheduler.policies import Confident, Deadline, Moment, Policy, UntilNextFrame
from stream_ann.scheduler.protocols import Engine, FrameSlot, Waiter
from stream_ann.scheduler.scene import Scene
from stream_ann.scheduler.scheduler import Scheduler
from stream_ann.scheduler.sources import Partial
from stream_ann.scheduler.times import StepTimes

__all__ = [
    "DEFAULT_PATH",
    "Arrivals",
    "Background",
    "Choice",
    "Confident",
    "Deadline",
    "Engine",
    "FrameSlot",
    "InOrder",
    "Moment",
    "Outlook",
    "Partial",
    "Path",
    "PathName",
    "Planned",
    "Policy",
    "Scene",
    "Scheduler",
    "Steady",
    "StepTimes",
    "UntilNextFrame",
    "Waiter",
    "chosen_path",
    "path_named",
]
