"""One step of distilling into a soft prompt, beside PEFT's prompt tuning with the usual loop and the bare matrix products.

python -m benchmarks.speed.training_step [--json] [--rounds 5] [--batch 8] [--tokens 128] [--response 40] [--virtual 20]
    [--without-bf16] [--without-trl]

Every contender takes the same step on the same ids: forward KL from the base model along the response, backward, gradient
clipping, Adam. The usual loop runs the teacher in each step and has logits on all positions; ours reads the teacher's states from
the cache, which one pass over the data fills for all epochs. TRL's trainers learn no soft prompt: a LoRA stands in (`trl_step`).
`matrix_products` multiplies what our step has to multiply and nothing else: linear layers and attention forwards and backwards to
the input, head on response positions, each by the model's own weights (the same few, read again and again, would be at hand).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from peft import PromptTuningConfig, TaskType, get_peft_model

from benchmarks.speed import trl_step
from benchmarks.speed.rounds import MODEL, models, own_dtype, parser, publish, ratio, result, timed_rounds
from softguard.adapters import Adapter, SoftPrompt, SoftPromptConfig
from softguard.models import LanguageModel, RenderedPrompt, load_model, response_states
from softguard.objectives.dense import DenseConfig, dense
from softguard.teacher import TeacherRecord
from softguard.training import Example, TrainingConfig, optimiser_step

Batch = TypeVar("Batch")


def ids(rows: int, tokens: int, vocabulary: int) -> torch.Tensor:
    """Return seeded ids: what they say does not matter to how long they take."""
    return torch.randint(100, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))


def teacher_states(lm: LanguageModel, given: torch.Tensor, response: int) -> list[torch.Tensor]:
    """Return what the teacher cache holds of each row: the base model's states at response positions."""
    prompts, responses = [row[:-response].tolist() for row in given], [row[-response:].tolist() for row in given]
    with torch.inference_mode():
        found = response_states(lm, prompts, responses)
    return [found.states[found.row == i].to(torch.bfloat16) for i in range(len(given))]


def examples(given: torch.Tensor, states: Sequence[torch.Tensor], response: int) -> list[Example]:
    """Return rows of ids with the teacher's states as the loop takes them."""
    return [
        Example(
            RenderedPrompt(tuple(row[:-response].tolist()), {"front": 0}),
            TeacherRecord(str(i), tuple(row[-response:].tolist()), "", True, 1.0, {}, 0.0, of),
            harmful=False,
        )
        for i, (row, of) in enumerate(zip(given, states, strict=True))
    ]


def our_step(lm: LanguageModel, adapter: Adapter) -> Callable[[Sequence[Example]], dict[str, float]]:
    """Return the very step that the loop takes, as a function of a batch."""
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-4)
    objective, config = dense(DenseConfig(kind="forward_kl")), TrainingConfig(token_budget=1 << 20)
    refusal = [1, lm.turn_end_id]
    return lambda batch: optimiser_step(lm, adapter, objective, [batch], refusal, config, optimiser, 0)


def soft_prompt(lm: LanguageModel, virtual: int) -> SoftPrompt:
    """Return a fresh soft prompt."""
    return SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=virtual), lm, 0)


def ours(lm: LanguageModel, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return our step with a soft prompt on one batch."""
    return on(our_step(lm, soft_prompt(lm, virtual)), examples(given, teacher_states(lm, given, response), response))


def our_lora(lm: LanguageModel, given: torch.Tensor, response: int) -> Callable[[], object]:
    """Return our step with the LoRA that TRL's trainers have, on one batch."""
    return on(our_step(lm, trl_step.lora(lm)), examples(given, teacher_states(lm, given, response), response))


def on(step: Callable[[Batch], object], batch: Batch) -> Callable[[], object]:
    """Return the step on this batch, always."""
    return lambda: step(batch)


def usual_loop(lm: LanguageModel, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return the usual step on the embedded model, with transformers' own default attention."""
    return usual_step(load_model(MODEL, dtype=lm.dtype, attention="sdpa").network, given, response, virtual)


def usual_step(base: Any, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return the usual step on one batch."""
    return on(usual_steps(base, response, virtual), given)


def usual_steps(base: Any, response: int, virtual: int) -> Callable[[torch.Tensor], object]:
    """Return the step of PEFT's prompt tuning as its documentation has it, with the teacher beside it in the loop."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=virtual)
    student: Any = get_peft_model(base, config)
    optimiser = torch.optim.Adam((p for p in student.parameters() if p.requires_grad), lr=1e-4)

    def step(given: torch.Tensor) -> None:
        mask = torch.ones_like(given)
        optimiser.zero_grad()
        with torch.no_grad(), student.disable_adapter():
            teacher = student(input_ids=given, attention_mask=mask).logits
        logits = student(input_ids=given, attention_mask=mask).logits[:, virtual:]
        where = slice(given.shape[1] - response - 1, given.shape[1] - 1)
        log_q, log_p = (F.log_softmax(x[:, where].float(), -1) for x in (logits, teacher))
        loss = F.kl_div(log_q, log_p, log_target=True, reduction="sum") / len(given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()

    return step


def matrix_products(lm: LanguageModel, rows: int, length: int, response: int) -> Callable[[], object]:
    """Return the products of one step alone, each as one call of the shape that the step has."""
    c = lm.network.config
    width, head = c.hidden_size, c.hidden_size // c.num_attention_heads
    kv, n = c.num_key_value_heads * head, rows * length

    inputs = {size: torch.ones(n, size, dtype=lm.dtype) for size in (width, kv, c.intermediate_size)}
    states, by_logit = (torch.ones(rows * response, size, dtype=lm.dtype) for size in (width, c.vocab_size))
    weights = [[m.weight for m in block.modules() if isinstance(m, torch.nn.Linear)] for block in lm.blocks]
    head_weight = lm.output_head.weight
    q = torch.ones(rows * c.num_attention_heads, length, head, dtype=lm.dtype)
    scores = torch.ones(rows * c.num_attention_heads, length, length, dtype=lm.dtype)

    def step() -> None:
        with torch.inference_mode():
            for block in weights:
                for w in block:
                    F.linear(inputs[w.shape[1]], w)
                    inputs[w.shape[0]] @ w
                for _ in range(3):  # forward, and backward to each factor
                    q @ q.transpose(1, 2)
                    scores @ q
            F.linear(states, head_weight)
            F.linear(states, head_weight)
            by_logit @ head_weight

    return step


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=128, help="of prompt and response together")
    options.add_argument("--response", type=int, default=40)
    options.add_argument("--virtual", type=int, default=20)
    options.add_argument("--without-trl", action="store_true", help="leave out TRL's trainers and the LoRA beside them")
    a = options.parse_args()
    left_out = "left out by --without-trl" if a.without_trl else trl_step.missing()
    contenders: dict[str, Callable[[], object]] = {}
    for name, lm in models(without_bf16=a.without_bf16):
        given = ids(a.batch, a.tokens, lm.network.config.vocab_size)
        contenders[f"peft_{name}"] = usual_loop(lm, given, a.response, a.virtual)
        contenders[f"softguard_{name}"] = ours(lm, given, a.response, a.virtual)
        contenders[f"matrix_products_{name}"] = matrix_products(lm, a.batch, a.tokens + a.virtual - 1, a.response)
        if not left_out:
            contenders |= {f"{rival}_{name}": step for rival, step in trl_step.steps(lm, given, a.response).items()}
            contenders[f"{trl_step.OURS}_{name}"] = our_lora(lm, given, a.response)
    seconds = timed_rounds(contenders, a.rounds)
    fast = own_dtype(without_bf16=a.without_bf16)
    best = f"softguard_{fast}"
    found = result(
        seconds,
        softguard_dtype=fast,
        ratio_vs_peft_bf16=ratio(seconds, "peft_bf16", best),
        ratio_vs_peft_fp32=ratio(seconds, "peft_fp32", best),
        ratio_vs_peft_same_dtype=ratio(seconds, f"peft_{fast}", best),
        ratio_to_matmul_floor=ratio(seconds, best, f"matrix_products_{fast}"),
        **trl_step.comparison(seconds, fast, left_out),
        tokens_per_second=round(a.batch * (a.tokens + a.virtual) / sorted(seconds[best])[len(seconds[best]) // 2], 1),
        settings=vars(a),
    )
    publish("training_step", found, only_json=a.json)


if __name__ == "__main__":
    main()
