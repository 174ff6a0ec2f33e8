"""Tiny checkpoints of every family on the device, against the CPU in fp32."""

import pytest
import torch
from safetensors.torch import save_file

import unmask
from tests.models.checkpoints import MAKERS, write

pytestmark = pytest.mark.gpu

# Kernels of experts want rows of 16 bytes: 8 numbers in bf16.
CHANGES = {"llada_moe": {"expert_intermediate_size": 16}}
# Largest difference of a position's logits over the spread (standard deviation) of all. bf16 keeps
# 8 bits, so each of a network's some 20 roundings moves a logit by up to 0.4 % of its size. On CPUs
# the largest is 0.11 (llada_moe: 0.41).
FP32, BF16 = 1e-3, 0.2
# The part of positions that must be as near. A router may send a token to another expert where two
# are nearly as good, and then everything behind it differs.
SHARE = {"llada_moe": 0.9, "llada2_moe": 0.9}
SCALE = 0.3  # of the matrices: with larger ones attention is so sharp that bf16 says little


def batch(model):
    """Rows of several lengths with masks, padded on the right; tokens and mask, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    sizes = [17, 5, 16, 30]
    tokens = torch.full((len(sizes), max(sizes)), model.pad_id)
    mask = torch.zeros_like(tokens)
    for row, size in enumerate(sizes):
        tokens[row, :size] = torch.randint(6, 30, (size,), generator=generator)
        tokens[row, size // 2 :: 3] = model.mask_id
        mask[row, :size] = 1
    tokens[mask == 0] = model.pad_id
    return tokens, mask


@pytest.fixture(scope="module", params=[*MAKERS, "plain"])
def checkpoint(request, tmp_path_factory, tiny_dir):
    """Family and directory."""
    if request.param == "plain":
        return "plain", tiny_dir
    directory = tmp_path_factory.mktemp("gpu") / request.param
    written = write(request.param, directory, **CHANGES.get(request.param, {}))
    weights = {n: w * SCALE if w.ndim > 1 else w for n, w in written.weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return request.param, directory


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
def test_logits_are_near_those_of_the_cpu(checkpoint, device, dtype, tolerance):
    family, directory = checkpoint
    exact = unmask.load_model(directory, dtype=torch.float32)
    model = unmask.load_model(directory, device=device, dtype=dtype)
    assert model.device.type == device and model.dtype == dtype
    tokens, mask = batch(exact)
    expected = exact.logits(tokens, mask)[mask.bool()]
    found = model.logits(tokens.to(device), mask.to(device)).cpu()[mask.bool()]
    assert found.dtype == torch.float32 and found.isfinite().all()
    difference = (found - expected).abs().amax(-1) / expected.std()
    near = difference <= tolerance
    assert near.float().mean() >= (SHARE.get(family, 1.0) if dtype == torch.bfloat16 else 1.0)
    # Where the best token is clearly the best, it is the best on the device too.
    best, second = expected.topk(2).values.unbind(-1)
    clear = near & (best - second > 2 * tolerance * expected.std())
    assert clear.any()
    assert torch.equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_it_generates_in_bf16(checkpoint, device):
    _, directory = checkpoint
    model = unmask.load_model(directory, device=device, dtype=torch.bfloat16)
    prompts = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16, 17]]
    block = model.attention_block
    length = 4 if block is None else None  # a block-causal model has its own
    done = unmask.generate(model, prompts, "threshold:0.7", max_new_tokens=10, block_length=length)
    assert done.tokens.device.type == device
    assert not (done.tokens == model.mask_id).any()
    # A block-causal model fills its last block too, behind L. With a causal context blocks begin
    # behind the prompt.
    starts = [0 if model.causal_context else len(prompt) for prompt in prompts]
    most = torch.tensor(
        [10 if block is None else -(-(n + 10) // block) * block - n for n in starts]
    )
    nfe = done.nfe.cpu()
    assert ((nfe >= 1) & (nfe <= most)).all()
