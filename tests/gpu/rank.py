"""What one of several processes says about itself: `torchrun … -m tests.gpu.rank DEVICE MODEL OUT`.

The main process writes the answers of all to OUT, as JSON.
"""

import json
import sys
from pathlib import Path

import torch

from unmask import generate, load_model
from unmask.processes import Processes


def main() -> None:
    processes = Processes.join(sys.argv[1])
    model = load_model(sys.argv[2], device=processes.device, dtype=torch.float32)
    done = generate(model, [[5, 6], [7, 8, 9]], "confidence:2", max_new_tokens=6)
    weight = torch.nn.Parameter(torch.zeros(3, device=processes.device))
    weight.grad = torch.full_like(weight, float(processes.rank))
    processes.mean_gradients([weight])
    allocated = []  # bytes of this process on each card
    if processes.device.type == "cuda":
        cards = range(torch.cuda.device_count())
        allocated = [torch.cuda.memory_allocated(card) for card in cards]
    answers = processes.gather(
        {
            "rank": processes.rank,
            "device": str(processes.device),
            "model": str(model.device),
            "tokens": done.tokens.tolist(),
            "total": processes.total(torch.tensor([1.0, processes.rank])).tolist(),
            "gradient": weight.grad.tolist(),
            "allocated": allocated,
        }
    )
    processes.barrier()
    if processes.main:
        Path(sys.argv[3]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
