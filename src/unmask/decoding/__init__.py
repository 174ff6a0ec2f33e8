"""Decoding: options and requests, the engine, and `generate`, `stream`, `infill` on top of it."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Cost": "generation",
        "DecodeOptions": "options",
        "Engine": "engine",
        "Generation": "generation",
        "Prompt": "prompts",
        "Recorder": "recorder",
        "Request": "request",
        "Result": "generation",
        "Step": "generation",
        "Transitions": "generation",
        "decode": "calls",
        "decode_steps": "calls",
        "encode_prompt": "prompts",
        "finish": "calls",
        "generate": "calls",
        "infill": "calls",
        "stream": "calls",
        "text_so_far": "text",
    },
)
