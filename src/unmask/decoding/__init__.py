"""Decoding: options and requests, the engine, and `generate`, `stream`, `infill` on top of it."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DecodeOptions": "options",
        "Generation": "loop",
        "Prompt": "calls",
        "Recorder": "loop",
        "Step": "loop",
        "Transitions": "loop",
        "check_arguments": "loop",
        "check_cache": "caching",
        "decode": "loop",
        "decode_steps": "loop",
        "encode_prompt": "calls",
        "finish": "loop",
        "generate": "calls",
        "stream": "calls",
    },
)
