"""Watch a canvas fill: `.` for a position that is still masked."""

import unmask

model = unmask.load_model("embedded/chain")
prompt = "7 a +5 b *3 ="
for step in unmask.stream(model, [prompt], "threshold:0.9", max_new_tokens=48):
    tokens = step.tokens[0].tolist()
    shown = ["." if t == model.mask_id else model.tokenizer.decode([t]) for t in tokens]
    print(" ".join(text for text in shown if text not in ("<eos>", "<pad>")))
