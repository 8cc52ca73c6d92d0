"""From an answer's probabilities to the label that is shown: groups of classes, smoothing, wider concepts."""

from stream_ann.labels.hierarchy import Hierarchy, bundled_hierarchy
from stream_ann.labels.labelling import Labelling, Plain, Settled
from stream_ann.labels.options import LabelOptions, labelling_from

__all__ = [
    "Hierarchy",
    "LabelOptions",
    "Labelling",
    "Plain",
    "Settled",
    "bundled_hierarchy",
    "labelling_from",
]
