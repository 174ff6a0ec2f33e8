"""Adapter for lm-evaluation-harness: importing this registers the model class `unmask`. Needs `pip
install "unmask[lm-eval]"`."""

from lm_eval.api.registry import register_model

from unmask.integrations.lm_eval.code_eval import REFUSAL, CodeEval, job_of, sandboxed_code_eval
from unmask.integrations.lm_eval.model import TaskCost, UnmaskLM

register_model("unmask")(UnmaskLM)

__all__ = ["REFUSAL", "CodeEval", "TaskCost", "UnmaskLM", "job_of", "sandboxed_code_eval"]
