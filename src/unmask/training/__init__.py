"""Training: settings, phases, rewards, the GRPO loss, the trainer; stored traces and labels."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Labels": "labels",
        "Recording": "record",
        "TraceSteps": "traces",
        "Traces": "traces",
        "TrainConfig": "config",
        "record_traces": "record",
        "train": "trainer",
    },
)
