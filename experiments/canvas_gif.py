"""Draws docs/images/canvas.gif: one prompt, answered by a heuristic and by a learned policy.

    unmask demo
    python experiments/canvas_gif.py demo/full/best@alpha=0.1 docs/images/canvas.gif

Both answer the same test prompt of the task chain in full diffusion, pass by pass. The prompt is
the first of 50 that is nearly as long as the task allows.
"""

import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

import unmask
from unmask.decoding.text import token_texts
from unmask.tasks import answer_length

COLUMNS, CELL, LINE, MARGIN = 12, 46, 30, 18
GREY, LIGHT, INK, FRESH = (150, 150, 150), (226, 229, 234), (25, 25, 25), (120, 200, 140)
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
PLAIN = ImageFont.truetype(FONTS / "DejaVuSans.ttf", 15)
BOLD = ImageFont.truetype(FONTS / "DejaVuSans-Bold.ttf", 16)


def record_passes(model, prompt, policy, length):
    """The canvas and what is new in it after each pass: lists of (tokens [L], fresh [L])."""
    steps = unmask.stream(model, [prompt], policy, max_new_tokens=length)
    return [(step.tokens[0].tolist(), step.fresh[0].tolist()) for step in steps]


def draw_panel(draw, left, title, model, passes, number, verdict):
    """One canvas after so many passes, under its title."""
    width, tokens = COLUMNS * CELL, [None] * len(passes[0][0])
    fresh = [False] * len(tokens)
    done = number >= len(passes)
    if number:
        tokens, fresh = passes[min(number, len(passes)) - 1]
        tokens = token_texts(model, tokens)
    draw.text((left, MARGIN), title, INK, BOLD)
    count = f"{min(number, len(passes))} passes" + (f", {verdict}" if done else "")
    draw.text((left + width, MARGIN), count, INK, BOLD if done else PLAIN, anchor="ra")
    for i, (text, new) in enumerate(zip(tokens, fresh, strict=True)):
        x, y = left + i % COLUMNS * CELL, MARGIN + 34 + i // COLUMNS * LINE
        fill = LIGHT if text is None else FRESH if new and not done else "white"
        draw.rectangle((x, y, x + CELL - 3, y + LINE - 3), fill)
        if text is not None:  # "" is an end of text
            word = text.strip() or "⌁"
            middle = (x + CELL / 2 - 1, y + LINE / 2 - 2)
            draw.text(middle, word, GREY if word == "⌁" else INK, PLAIN, anchor="mm")


def main(policy, out):
    model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
    length = answer_length(model, task, None)
    long = 0.8 * task.max_prompt_tokens
    example = next(e for e in task.examples("test", 50) if len(e.prompt.split()) >= long)
    panels = []
    for title, sampler in (("threshold:0.9", "threshold:0.9"), ("learned policy", policy)):
        passes = record_passes(model, example.prompt, sampler, length)
        text = unmask.generate(model, [example.prompt], sampler, max_new_tokens=length).text[0]
        verdict = "right" if task.score(text, example) else "wrong"
        panels.append((title, passes, verdict))
        print(f"{title}: {len(passes)} passes, {verdict}: {text}")

    width = COLUMNS * CELL
    lines = -(-length // COLUMNS)
    size = (2 * width + 3 * MARGIN, 2 * MARGIN + 34 + (lines + 1) * LINE)
    frames = []
    for number in range(max(len(passes) for _, passes, _ in panels) + 1):
        frame = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(frame)
        for i, (title, passes, verdict) in enumerate(panels):
            left = MARGIN + i * (width + MARGIN)
            draw_panel(draw, left, title, model, passes, number, verdict)
        draw.text((MARGIN, size[1] - MARGIN), f"prompt: {example.prompt}", GREY, PLAIN, "ls")
        frames.append(frame.quantize(32))
    waits = [900, *[450] * (len(frames) - 2), 4000]
    options = {"append_images": frames[1:], "duration": waits, "loop": 0, "optimize": True}
    frames[0].save(out, save_all=True, **options)
    print(f"written to {out}: {len(frames)} frames, {Path(out).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
