"""Scoring of given responses: the final states at the positions that predict them, and nothing for the others.

Sequences are padded on the right: what comes after a position cannot reach it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softguard.core.protocols import Progress
from softguard.models.attention import FUSED
from softguard.models.language_model import LanguageModel
from softguard.models.packing import Packing, packed
from softguard.models.shared_prefix import SharedPrefix, common_prefix


@dataclass(frozen=True)
class ResponseStates:
    """Flat over the response tokens of all rows, row by row.

    Attributes:
        states: N x D, the state that predicts each token.
        targets: N, the tokens.
        row: N, which (prompt, response) each belongs to.
        position: N, its place in the response, from 0.
    """

    states: Tensor
    targets: Tensor
    row: Tensor
    position: Tensor


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of indices, sorted by length, each of at most `budget` padded tokens (a long row goes alone)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def response_states(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 2048,
) -> ResponseStates:
    """Return the states that predict `responses` after `prompts`; gradients flow to `virtual_tokens` where enabled.

    What all prompts begin with is run once (`shared_prefix`), and responses of one prompt share its pass (`_Tree`). An empty
    response has no states.
    """
    longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    sharing = lm.prefix_positions + 2 * longest < lm.window  # a tree may hold two
    packing = sharing and lm.packs
    if packing:  # what is shared runs with the rest: a pass of its own would read all weights once more for a few tokens
        prefix = SharedPrefix(ids=common_prefix(prompts))
    else:
        prefix = SharedPrefix.run(lm, prompts if sharing else (), virtual_tokens)
    members: dict[tuple[object, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault(tuple(prompt) if sharing else (i,), []).append(i)
    trees = [_Tree.grow(prompts[of[0]][prefix.ids :], [responses[i] for i in of], of) for of in members.values()]
    parts: dict[int, Tensor] = {}
    for batch in token_budget_batches([len(t.ids) for t in trees], token_budget):
        part = [trees[i] for i in batch]
        if packing:
            parts |= _run_packed(lm, part, prompts[0][: prefix.ids], virtual_tokens)
        else:
            parts |= _run_trees(lm, part, prefix, virtual_tokens, sharing)
    device = lm.device
    return ResponseStates(
        states=torch.cat([parts[i] for i in range(len(prompts))]),
        targets=torch.tensor([t for r in responses for t in r], dtype=torch.long, device=device),
        row=torch.tensor([i for i, r in enumerate(responses) for _ in r], dtype=torch.long, device=device),
        position=torch.tensor([t for r in responses for t in range(len(r))], dtype=torch.long, device=device),
    )


@dataclass(frozen=True)
class _Tree:
    """A prompt with the responses that may follow it, in one row: each response sees the prompt and itself only.

    Attributes:
        ids: prompt, then each response without its last token.
        branch: 0 in the prompt, k in the k-th response.
        position: the place in the sequence that a token would have with its own response alone.
        outputs: for each response (by the caller's number) the indices of the states that predict its tokens.
    """

    ids: list[int]
    branch: list[int]
    position: list[int]
    outputs: dict[int, list[int]]

    @classmethod
    def grow(cls, prompt: Sequence[int], responses: Sequence[Sequence[int]], numbers: Sequence[int]) -> "_Tree":
        ids, branch, position = list(prompt), [0] * len(prompt), list(range(len(prompt)))
        outputs = {}
        for k, (response, number) in enumerate(zip(responses, numbers, strict=True), 1):
            outputs[number] = [len(prompt) - 1, *range(len(ids), len(ids) + len(response) - 1)][: len(response)]
            ids += response[:-1]
            branch += [k] * (len(response) - 1)
            position += range(len(prompt), len(prompt) + len(response) - 1)
        return cls(ids, branch, position, outputs)


def _run_trees(
    lm: LanguageModel, trees: Sequence[_Tree], prefix: SharedPrefix, virtual_tokens: Tensor | None, sharing: bool
) -> dict[int, Tensor]:
    """Return the output states of one batch of trees by response number. Without `sharing` the model makes its own masks."""
    width, device = max(len(t.ids) for t in trees), lm.device

    def padded(values: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([v + [fill] * (width - len(v)) for v in values], device=device)

    inputs: dict[str, Any] = {"use_cache": False}
    if prefix.length:
        inputs = {"use_cache": True, "past_key_values": prefix.cache(lm, len(trees))}
    if sharing and (prefix.length or any(len(t.outputs) > 1 for t in trees)):
        branch = padded([t.branch for t in trees], 0)
        seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        seen &= torch.ones(width, width, dtype=torch.bool, device=device).tril()
        seen = torch.cat([seen.new_ones(len(trees), width, prefix.length), seen], 2)[:, None]
        inputs["attention_mask"] = lm.attention_mask(seen)
        inputs["position_ids"] = padded([t.position for t in trees], 0) + prefix.length
    states = lm.body(inputs_embeds=lm.embed(padded([t.ids for t in trees], 0), virtual_tokens), **inputs).last_hidden_state
    return {number: states[k, where] for k, tree in enumerate(trees) for number, where in tree.outputs.items()}


def _run_packed(
    lm: LanguageModel, trees: Sequence[_Tree], shared: Sequence[int], virtual_tokens: Tensor | None
) -> dict[int, Tensor]:
    """Return the output states of one batch of trees, sorted by length, by response number: all in one row, without padding."""
    packing = Packing.of(len(shared), [t.branch for t in trees], lm.dtype, lm.device, fused=lm.attention == FUSED)
    ids = torch.tensor([[*shared, *(i for t in trees for i in t.ids)]], device=lm.device)
    position = [*range(len(shared)), *(len(shared) + p for t in trees for p in t.position)]
    nobody_reads = lm.attention_mask(torch.ones(1, 1, 1, 1, dtype=torch.bool, device=lm.device))
    with packed(packing):
        states = lm.body(
            inputs_embeds=lm.embed(ids, virtual_tokens),
            attention_mask=nobody_reads,
            position_ids=torch.tensor([position], device=lm.device),
            use_cache=False,
        ).last_hidden_state[0]
    out: dict[int, Tensor] = {}
    start = len(shared)
    for tree in trees:
        out |= {number: states[start : start + len(tree.ids)][where] for number, where in tree.outputs.items()}
        start += len(tree.ids)
    return out


@torch.inference_mode()
def next_token_logits(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 4096,
    progress: Progress | None = None,
) -> Tensor:
    """Return the float32 logits that follow each prompt, N x V."""
    out: list[Tensor | None] = [None] * len(prompts)
    done = 0
    for batch in token_budget_batches([len(p) for p in prompts], token_budget):
        states = response_states(
            lm, [prompts[i] for i in batch], [[0]] * len(batch), virtual_tokens, token_budget=token_budget
        ).states
        for i, logits in zip(batch, lm.head(states), strict=True):
            out[i] = logits
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return torch.stack([o for o in out if o is not None])


@torch.inference_mode()
def refusal_log_odds(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    refusal_token: int,
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 4096,
    progress: Progress | None = None,
) -> list[float]:
    """Return s for each prompt (`LanguageModel.refusal_scores`)."""
    out = [0.0] * len(prompts)
    done = 0
    for batch in token_budget_batches([len(p) for p in prompts], token_budget):
        part = [prompts[i] for i in batch]
        states = response_states(lm, part, [[0]] * len(part), virtual_tokens, token_budget=token_budget).states
        for i, value in zip(batch, lm.refusal_scores(states, lm.head(states), refusal_token).tolist(), strict=True):
            out[i] = value
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return out


@torch.inference_mode()
def block_states(lm: LanguageModel, prompts: Sequence[Sequence[int]], layer: int, *, token_budget: int = 4096) -> Tensor:
    """Return the output of block `layer` (from 0) at the last position of each prompt, N x D float32."""
    out: list[Tensor | None] = [None] * len(prompts)
    seen: list[Tensor] = []

    def keep(module: object, inputs: object, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = lm.blocks[layer].register_forward_hook(keep)
    try:
        for batch in token_budget_batches([len(p) for p in prompts], token_budget):
            width = max(len(prompts[i]) for i in batch)
            ids = torch.tensor([[*prompts[i], *[0] * (width - len(prompts[i]))] for i in batch], device=lm.device)
            lm.body(inputs_embeds=lm.embed(ids), use_cache=False)
            states = seen.pop()
            for row, i in enumerate(batch):
                out[i] = states[row, len(prompts[i]) - 1].float()
    finally:
        handle.remove()
    return torch.stack([o for o in out if o is not None])
