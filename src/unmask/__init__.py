"""Learned unmasking policies for diffusion language models (arXiv 2512.09106)."""

from unmask.decoding import Generation, Step, Transitions, generate, stream
from unmask.errors import UnmaskError
from unmask.evaluation import Point, evaluate
from unmask.models import Model, embedded_models, load_model
from unmask.policies import LearnedPolicy, load_policy
from unmask.tasks import load_task
from unmask.training import TrainConfig, train

__all__ = [
    "Generation",
    "LearnedPolicy",
    "Model",
    "Point",
    "Step",
    "TrainConfig",
    "Transitions",
    "UnmaskError",
    "embedded_models",
    "evaluate",
    "generate",
    "load_model",
    "load_policy",
    "load_task",
    "stream",
    "train",
]
