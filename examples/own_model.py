"""A network that is already in memory as a model: any bidirectional `transformers` network with a
language-model head, its tokenizer, and the ids of the mask and of the ends."""

from transformers import AutoTokenizer, LlamaForCausalLM

import unmask
from unmask.models.load import EMBEDDED

source = EMBEDDED / "chain"  # stands for a network of your own
network = LlamaForCausalLM.from_pretrained(source).eval()
tokenizer = AutoTokenizer.from_pretrained(source)
mask = tokenizer.mask_token_id
model = unmask.Model(
    network=network,
    tokenizer=tokenizer,
    mask_id=mask,
    eos_ids=(tokenizer.eos_token_id,),
    never_ids=(mask, tokenizer.pad_token_id, tokenizer.unk_token_id),
    name="mine",
)
generation = unmask.generate(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48)
print(generation.text[0], generation.nfe[0].item())
