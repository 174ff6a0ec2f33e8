"""Policies: which of the model's proposals to accept."""

from typing import TYPE_CHECKING

from unmask.lazy import lazy_names

__getattr__, __dir__, _ = lazy_names(
    __name__,
    {
        "HEURISTICS": "heuristics",
        "Bernoulli": "bernoulli",
        "Confidence": "heuristics",
        "Entropy": "heuristics",
        "Factor": "heuristics",
        "LearnedPolicy": "learned",
        "LowEntropy": "heuristics",
        "Margin": "heuristics",
        "Needs": "base",
        "NetworkConfig": "network",
        "Observation": "base",
        "PlackettLuce": "plackett_luce",
        "Policy": "base",
        "PolicyNetwork": "network",
        "Random": "heuristics",
        "SemiAutoregressive": "heuristics",
        "Threshold": "heuristics",
        "current_block": "base",
        "embedded_policies": "load",
        "load_policy": "load",
        "needs_of": "base",
        "steps_spec": "load",
    },
)

if TYPE_CHECKING:
    from unmask.policies.base import Needs, Observation, Policy, current_block, needs_of
    from unmask.policies.bernoulli import Bernoulli
    from unmask.policies.heuristics import (
        HEURISTICS,
        Confidence,
        Entropy,
        Factor,
        LowEntropy,
        Margin,
        Random,
        SemiAutoregressive,
        Threshold,
    )
    from unmask.policies.learned import LearnedPolicy
    from unmask.policies.load import embedded_policies, load_policy, steps_spec
    from unmask.policies.network import NetworkConfig, PolicyNetwork
    from unmask.policies.plackett_luce import PlackettLuce

__all__ = [
    "HEURISTICS",
    "Bernoulli",
    "Confidence",
    "Entropy",
    "Factor",
    "LearnedPolicy",
    "LowEntropy",
    "Margin",
    "Needs",
    "NetworkConfig",
    "Observation",
    "PlackettLuce",
    "Policy",
    "PolicyNetwork",
    "Random",
    "SemiAutoregressive",
    "Threshold",
    "current_block",
    "embedded_policies",
    "load_policy",
    "needs_of",
    "steps_spec",
]
