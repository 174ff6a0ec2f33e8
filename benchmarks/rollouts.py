"""For `accelerate launch`: decodes training rollouts of embedded/chain on each process, and prints
how many a second all make together."""

from __future__ import annotations

import time

import torch
from accelerate import Accelerator

from benchmarks.models import random_policy
from unmask.decoding import Recorder, decode, encode_prompt
from unmask.models import load_model
from unmask.tasks import load_task

PROMPTS, G, ROUNDS = 16, 8, 4


def main() -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    model = load_model("embedded/chain", dtype="bfloat16")
    policy = random_policy(64, bias=-1.0, fallback=False)
    stream = load_task("chain").stream("train", seed=accelerator.process_index)
    options = {"max_new_tokens": 48, "batch_size": PROMPTS * G, "recorder": Recorder()}

    def round_(seed: int) -> None:
        rows = [
            ids
            for ids in (encode_prompt(model, next(stream).prompt) for _ in range(PROMPTS))
            for _ in range(G)
        ]
        generation = decode(model, rows, policy, seed=seed, **options)
        accelerator.reduce(
            torch.tensor(float(generation.nfe.sum()))
        )  # what a training round exchanges: processes wait for each other

    round_(0)
    accelerator.wait_for_everyone()
    began = time.perf_counter()
    for seed in range(ROUNDS):
        round_(seed + 1)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - began
    if accelerator.is_main_process:
        print(accelerator.num_processes * ROUNDS * PROMPTS * G / seconds)
    accelerator.end_training()


if __name__ == "__main__":
    main()
