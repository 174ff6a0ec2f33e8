"""Learned unmasking policies for diffusion language models (arXiv 2512.09106)."""

from typing import TYPE_CHECKING

from unmask.lazy import lazy_names

# Names are imported at their first use: `import unmask` alone loads neither torch nor transformers.
__getattr__, __dir__, _ = lazy_names(
    __name__,
    {
        "DecodeOptions": "decoding",
        "Generation": "decoding",
        "LearnedPolicy": "policies",
        "Model": "models",
        "Point": "evaluation",
        "Step": "decoding",
        "TrainConfig": "training",
        "Transitions": "decoding",
        "UnmaskError": "errors",
        "embedded_models": "models",
        "embedded_policies": "policies",
        "evaluate": "evaluation",
        "generate": "decoding",
        "infill": "decoding",
        "load_model": "models",
        "load_policy": "policies",
        "load_task": "tasks",
        "stream": "decoding",
        "train": "training",
    },
    modules=("analysis", "decoding", "evaluation", "models", "policies", "tasks", "training"),
)

# The same names once more, for type checkers and editors.
if TYPE_CHECKING:
    from unmask import analysis, decoding, evaluation, models, policies, tasks, training
    from unmask.decoding import (
        DecodeOptions,
        Generation,
        Step,
        Transitions,
        generate,
        infill,
        stream,
    )
    from unmask.errors import UnmaskError
    from unmask.evaluation import Point, evaluate
    from unmask.models import Model, embedded_models, load_model
    from unmask.policies import LearnedPolicy, embedded_policies, load_policy
    from unmask.tasks import load_task
    from unmask.training import TrainConfig, train

__all__ = [
    "DecodeOptions",
    "Generation",
    "LearnedPolicy",
    "Model",
    "Point",
    "Step",
    "TrainConfig",
    "Transitions",
    "UnmaskError",
    "analysis",
    "decoding",
    "embedded_models",
    "embedded_policies",
    "evaluate",
    "evaluation",
    "generate",
    "infill",
    "load_model",
    "load_policy",
    "load_task",
    "models",
    "policies",
    "stream",
    "tasks",
    "train",
    "training",
]
