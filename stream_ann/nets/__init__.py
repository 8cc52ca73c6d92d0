"""Anytime networks: the step contract, the networks that keep it, and how to make one by name."""

from stream_ann.nets.backbones import Backbone, backbones
from stream_ann.nets.boosted import Boosted
from stream_ann.nets.contract import AnytimeNet, Member, Plan, State, Step, StepInfo, at_resolution
from stream_ann.nets.costs import plan_of
from stream_ann.nets.dense import DenseANN
from stream_ann.nets.eann import EANN
from stream_ann.nets.equilibrium import Equilibrium, equilibrium
from stream_ann.nets.fixed import FixedNet
from stream_ann.nets.lite import Lite
from stream_ann.nets.msdnet import MSDNet
from stream_ann.nets.registry import arch_of, architectures, build, register
from stream_ann.nets.resann import ResANN

__all__ = [
    "EANN",
    "AnytimeNet",
    "Backbone",
    "Boosted",
    "DenseANN",
    "Equilibrium",
    "FixedNet",
    "Lite",
    "MSDNet",
    "Member",
    "Plan",
    "ResANN",
    "State",
    "Step",
    "StepInfo",
    "arch_of",
    "architectures",
    "at_resolution",
    "backbones",
    "build",
    "equilibrium",
    "plan_of",
    "register",
]
