"""Teacher drafts at temperature 1, beside `transformers.generate` with a static batch in the given order.

python -m benchmarks.speed.sampling [--json] [--rounds 3] [--prompts 500] [--tokens 48] [--own-type-only]

Prompts are our own training prompts as they stand. Ours sorts them by length, runs the system turn once for all, keeps a big
batch full (finished rows leave, new ones enter) over keys and values that are written in place, and keeps the states of what it
drew (which training needs and `generate` does not give).
"""

from collections.abc import Callable, Sequence

import torch

from benchmarks.speed.rounds import MODEL, models, own_dtype, parser, publish, ratio, result, timed_rounds
from softguard.core import Conversation
from softguard.data import load_prompts
from softguard.models import ChatRenderer, LanguageModel, load_model, sample

STATIC_BATCH = 32


def ours(lm: LanguageModel, prompts: Sequence[Sequence[int]], tokens: int) -> Callable[[], object]:
    """Return the teacher's sampling as the cache calls it."""
    keys = [str(i) for i in range(len(prompts))]
    return lambda: sample(
        lm, prompts, keys, max_new_tokens=tokens, temperature=1.0, seed=0, refusal_token=lm.turn_end_id, keep_states=True
    )


def static_batches(dtype: torch.dtype, prompts: Sequence[Sequence[int]], tokens: int, pad: int) -> Callable[[], object]:
    """Return `generate` on batches of 32 in the given order, padded on the left, with transformers' own attention."""
    network = load_model(MODEL, dtype=dtype, attention="sdpa").network

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(prompts), STATIC_BATCH):
                part = prompts[start : start + STATIC_BATCH]
                width = max(map(len, part))
                ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in part])
                mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
                network.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=tokens,
                    do_sample=True,
                    top_k=0,
                    top_p=1.0,
                    pad_token_id=pad,
                )

    return run


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--prompts", type=int, default=500)
    options.add_argument("--tokens", type=int, default=48)
    options.add_argument("--own-type-only", action="store_true", help="only the type of number that is faster here")
    a = options.parse_args()
    rows = [r.prompt for r in load_prompts("softguard") if r.split == "train"][: a.prompts]
    contenders: dict[str, Callable[[], object]] = {}
    brief: list[Callable[[], object]] = []  # as many prompts as a static batch has, and few tokens: to warm up with
    fast = own_dtype(without_bf16=a.without_bf16)
    for name, lm in models(without_bf16=a.without_bf16):
        if a.own_type_only and name != fast:
            continue
        renderer = ChatRenderer(lm.tokenizer)
        prompts = [renderer.render(Conversation.from_prompt(p)).ids for p in rows]
        contenders[f"generate_{name}"] = static_batches(lm.dtype, prompts, a.tokens, lm.turn_end_id)
        contenders[f"softguard_{name}"] = ours(lm, prompts, a.tokens)
        few = prompts[:STATIC_BATCH]
        brief += [static_batches(lm.dtype, few, 2, lm.turn_end_id), ours(lm, few, 2)]
    seconds = timed_rounds(contenders, a.rounds, warm_up=lambda: [run() for run in brief])
    best = f"softguard_{fast}"
    found = result(
        seconds,
        softguard_dtype=fast,
        ratio_vs_generate_bf16=ratio(seconds, "generate_bf16", best),
        ratio_vs_generate_fp32=ratio(seconds, "generate_fp32", best),
        ratio_vs_generate_same_dtype=ratio(seconds, f"generate_{fast}", best),
        prompts_per_second=round(len(rows) / sorted(seconds[best])[len(seconds[best]) // 2], 2),
        settings=vars(a),
    )
    publish("sampling", found, only_json=a.json)


if __name__ == "__main__":
    main()
