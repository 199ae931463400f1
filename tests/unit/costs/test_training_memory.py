"""What is counted for the backward pass is what PyTorch keeps for it, and the rest is added up as it is said to be."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from softguard.costs import ModelShape, Rows, kept_bytes, sampling_bytes, step_bytes
from softguard.costs.training_memory import HEAP
from softguard.models import LanguageModel, response_states
from tests.fakes import tiny_model

SHAPE = ModelShape(
    parameters=5000, body_weights=2 * 8 * (2 * (8 + 4) + 48), head_weights=800, query_width=8, key_width=4, windows=(None, None),
    width=8, heads=2,
)  # fmt: skip
FRONT, PROMPT, ANSWER, COUNT = 16, 40, 24, 6


def really_kept(lm: LanguageModel) -> int:
    """Return the bytes of all storages that the pass keeps, weights apart, each counted once."""
    weights = {p.untyped_storage().data_ptr() for p in lm.network.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, 200, (COUNT, PROMPT), generator=generator).tolist()
    prompts = [[*(-k - 1 for k in range(FRONT)), *text] for text in texts]
    virtual = torch.randn(FRONT, lm.width, generator=generator).requires_grad_()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        states = response_states(lm, prompts, [[1] * ANSWER] * COUNT, virtual, token_budget=1 << 20)
    assert states.states.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("attention", ["grouped", "sdpa"])
def test_a_pass_keeps_what_is_counted(kind, dtype, attention):
    lm = tiny_model(kind, dtype)
    lm.network.set_attn_implementation(attention)
    counted = kept_bytes(
        ModelShape.of(lm.network),
        Rows(COUNT, PROMPT + ANSWER - 1, FRONT),
        dtype.itemsize,
        fused=attention == "sdpa",
        packed=attention == "grouped",
    )
    assert really_kept(lm) == pytest.approx(counted, rel=0.15)


def test_by_hand():
    # norms 2 x 8 x 4, queries 8 x 2, feed-forward 48 x 2; attention weights in both types, keys and values of row and front
    each, score, held = 64 + 16 + 96, 2 * (4 + 2), 2 * 4 * 2
    own, once = 3 * (10 * (each + score * 15) + 15 * held), 5 * (each + score * 5 + held)
    assert kept_bytes(SHAPE, Rows(3, 10, 5), 2) == 2 * (own + once)


def step(shape: ModelShape = SHAPE, learned: int = 0, **settings: int) -> int:
    given = {"response_positions": 30, "chunk_bytes": 2**21, "part_logits": 3000} | settings
    return step_bytes(shape, Rows(3, 10, 5), 2, learned=learned, **given)


def test_a_step_adds_logits_and_what_learns():
    kept, first = HEAP * kept_bytes(SHAPE, Rows(3, 10, 5), 2), 3 * 100 * 4 * 6
    assert step(learned=7) == round(kept + 30 * 100 * 2 * 3 + 3000 * 4 * 6 + first + 7 * 16)
    assert step(chunk_bytes=2000) == round(kept + 1000 * 2 * 3 + 3000 * 4 * 6 + first)
    assert step(response_positions=0) == round(kept * 1.5 + first)  # gradients of one of two layers


def test_logits_grow_with_the_vocabulary_only_up_to_a_chunk():
    large = replace(SHAPE, head_weights=100 * SHAPE.head_weights)
    grown = step(large, chunk_bytes=2000) - step(chunk_bytes=2000)
    assert (
        grown == (10_000 - 1000) * 2 * 3 + (10_000 - 3000) * 4 * 6 + 3 * (10_000 - 100) * 4 * 6
    )  # one position of the chunk, one of each row


def test_sampling_holds_keys_and_values_of_all_rows():
    rows = Rows(3, 10, 5)
    cache, logits = 3 * SHAPE.cache_numbers(15) * 2, 3 * 100 * 4 * 3
    assert sampling_bytes(SHAPE, rows, 2) == cache + kept_bytes(SHAPE, rows, 2) // 2 + logits
