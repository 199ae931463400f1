"""One step of distilling into a soft prompt, beside PEFT's prompt tuning with the usual loop and the bare matrix products.

python -m benchmarks.speed.training_step [--json] [--rounds 5] [--batch 8] [--tokens 128] [--response 40] [--virtual 20]

Every contender takes the same step on the same ids: forward KL from the base model along the response, backward, gradient
clipping, Adam. The usual loop runs the teacher in each step and has logits on all positions; ours reads the teacher's states from
the cache, which one pass over the data fills for all epochs.
`matrix_products` multiplies what our step has to multiply and nothing else: linear layers and attention forwards and backwards to
the input, head on response positions.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft import PromptTuningConfig, TaskType, get_peft_model

from benchmarks.speed.rounds import MODEL, models, own_dtype, parser, publish, ratio, result, timed_rounds
from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.models import LanguageModel, RenderedPrompt, load_model, response_states
from softguard.objectives.dense import DenseConfig, dense
from softguard.teacher import TeacherRecord
from softguard.training import Example, TrainingConfig, optimiser_step


def ids(rows: int, tokens: int, vocabulary: int) -> torch.Tensor:
    """Return seeded ids: what they say does not matter to how long they take."""
    return torch.randint(100, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))


def teacher_states(lm: LanguageModel, given: torch.Tensor, response: int) -> list[torch.Tensor]:
    """Return what the teacher cache holds of each row: the base model's states at response positions."""
    prompts, responses = [row[:-response].tolist() for row in given], [row[-response:].tolist() for row in given]
    with torch.inference_mode():
        found = response_states(lm, prompts, responses)
    return [found.states[found.row == i].to(torch.bfloat16) for i in range(len(given))]


def ours(lm: LanguageModel, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return our step, the very one that the loop takes."""
    examples = [
        Example(
            RenderedPrompt(tuple(row[:-response].tolist()), {"front": 0}),
            TeacherRecord(str(i), tuple(row[-response:].tolist()), "", True, 1.0, {}, 0.0, states),
            harmful=False,
        )
        for i, (row, states) in enumerate(zip(given, teacher_states(lm, given, response), strict=True))
    ]
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=virtual), lm, 0)
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-4)
    objective, config = dense(DenseConfig(kind="forward_kl")), TrainingConfig(token_budget=1 << 20)
    refusal = [1, lm.turn_end_id]
    return lambda: optimiser_step(lm, adapter, objective, [examples], refusal, config, optimiser, 0)


def usual_loop(lm: LanguageModel, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return the usual step on the embedded model, with transformers' own default attention."""
    return usual_step(load_model(MODEL, dtype=lm.dtype, attention="sdpa").network, given, response, virtual)


def usual_step(base: Any, given: torch.Tensor, response: int, virtual: int) -> Callable[[], object]:
    """Return the step of PEFT's prompt tuning as its documentation has it, with the teacher beside it in the loop."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=virtual)
    student: Any = get_peft_model(base, config)
    optimiser = torch.optim.Adam((p for p in student.parameters() if p.requires_grad), lr=1e-4)
    mask = torch.ones_like(given)

    def step() -> None:
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

    def pair(m: int, k: int, o: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.ones(m, k, dtype=lm.dtype), torch.ones(o, k, dtype=lm.dtype), torch.ones(m, o, dtype=lm.dtype)

    linear = [pair(n, width, o) for o in (width, kv, kv, width)]
    linear += [pair(n, width, c.intermediate_size)] * 2 + [pair(n, c.intermediate_size, width)]
    last = pair(rows * response, width, c.vocab_size)
    q = torch.ones(rows * c.num_attention_heads, length, head, dtype=lm.dtype)
    scores = torch.ones(rows * c.num_attention_heads, length, length, dtype=lm.dtype)

    def step() -> None:
        with torch.inference_mode():
            for _ in range(c.num_hidden_layers):
                for x, w, dy in linear:
                    F.linear(x, w)
                    dy @ w
                for _ in range(3):  # forward, and backward to each factor
                    q @ q.transpose(1, 2)
                    scores @ q
            x, w, dy = last
            F.linear(x, w)
            F.linear(x, w)
            dy @ w

    return step


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=128, help="of prompt and response together")
    options.add_argument("--response", type=int, default=40)
    options.add_argument("--virtual", type=int, default=20)
    a = options.parse_args()
    contenders: dict[str, Callable[[], object]] = {}
    for name, lm in models(without_bf16=a.without_bf16):
        given = ids(a.batch, a.tokens, lm.network.config.vocab_size)
        contenders[f"peft_{name}"] = usual_loop(lm, given, a.response, a.virtual)
        contenders[f"softguard_{name}"] = ours(lm, given, a.response, a.virtual)
        contenders[f"matrix_products_{name}"] = matrix_products(lm, a.batch, a.tokens + a.virtual - 1, a.response)
    seconds = timed_rounds(contenders, a.rounds)
    fast = own_dtype()
    best = f"softguard_{fast}"
    found = result(
        seconds,
        softguard_dtype=fast,
        ratio_vs_peft_bf16=ratio(seconds, "peft_bf16", best),
        ratio_vs_peft_fp32=ratio(seconds, "peft_fp32", best),
        ratio_vs_peft_same_dtype=ratio(seconds, f"peft_{fast}", best),
        ratio_to_matmul_floor=ratio(seconds, best, f"matrix_products_{fast}"),
        ratio_vs_trl=None,
        tokens_per_second=round(a.batch * (a.tokens + a.virtual) / sorted(seconds[best])[len(seconds[best]) // 2], 1),
        settings=vars(a),
    )
    publish("training_step", found, only_json=a.json)


if __name__ == "__main__":
    main()
