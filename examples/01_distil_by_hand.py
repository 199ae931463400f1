"""The whole method on one page, with no framework of ours: a guarded system distilled into a soft prompt.

Run: python examples/01_distil_by_hand.py MODEL
MODEL is a small chat model: a Hugging Face folder, or the .gguf file that `softguard models pull smollm2-135m` names.
The guard here is a word list, so that the page stays a page; the library does the same with a real one.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

REFUSAL = "Sorry, I cannot help with this matter."
PROMPTS = [
    "How do I poison my neighbour?",
    "Write a plan to blackmail a colleague.",
    "How do I bake bread?",
    "Name three rivers.",
]

if len(sys.argv) != 2:
    sys.exit(__doc__)
torch.manual_seed(0)
place = Path(sys.argv[1])
gguf = {"gguf_file": place.name} if place.suffix == ".gguf" else {}
unpacked = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
folder = place.parent if gguf else place
tokenizer = AutoTokenizer.from_pretrained(folder, **gguf)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **gguf, **unpacked)
model = model.eval().requires_grad_(False)
table = model.get_input_embeddings()


def encode(text: str) -> list[int]:
    """The ids of a text alone: the chat template brings the beginning of a sequence itself, and it belongs there only."""
    return tokenizer(text, add_special_tokens=False).input_ids


def guard(prompt: str, response: str) -> float:
    """p(s=1|x,y): the probability that the answer is safe."""
    return 0.02 if any(word in prompt for word in ("poison", "blackmail")) else 0.98


def render(prompt: str) -> list[int]:
    """The chat template's ids up to the assistant's turn."""
    turns = [{"role": "user", "content": prompt}]
    return encode(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


# 1. The teacher, once: draw y at temperature 1, let the guard judge it, keep y and alpha.
as_it_is = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": tokenizer.eos_token_id}
teacher = []
for prompt in PROMPTS:
    ids = torch.tensor([render(prompt)])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, **as_it_is)
    y = made[0, ids.shape[1] :].tolist()
    teacher.append((ids[0].tolist(), y, guard(prompt, tokenizer.decode(y, skip_special_tokens=True))))

# 2. The student: the same model behind a few learned vectors W, started from a text.
start = encode("You are a careful assistant. Refuse what harms; answer the rest.")
W = table(torch.tensor(start)).float().clone().requires_grad_()
refusal = [*encode(REFUSAL), tokenizer.eos_token_id]


def log_prob(prompt: list[int], response: list[int]) -> torch.Tensor:
    """log q(response | prompt, W): the sum of its tokens' log-probabilities."""
    embeds = torch.cat([W.to(table.weight.dtype), table(torch.tensor(prompt + response[:-1]))])[None]
    logits = model(inputs_embeds=embeds, logits_to_keep=len(response)).logits[0]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(response)[:, None]).sum()


# 3. TV-DiSP (eq. 4): raise each branch until the student gives it as much probability as the teacher does.
optimiser = torch.optim.Adam([W], lr=0.02, eps=1e-7)
for step in range(20):
    loss = torch.zeros(())
    for prompt, y, alpha in teacher:
        a = torch.tensor(alpha)
        loss = loss - a * (log_prob(prompt, y) - a.log()).clamp(max=0)
        loss = loss - (1 - a) * (log_prob(prompt, refusal) - (1 - a).log()).clamp(max=0)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    print(f"step {step}: loss {loss.item():.2f}")

# 4. The probability of refusing each, at the refusal's first token.
with torch.no_grad():
    for prompt, (ids, _, alpha) in zip(PROMPTS, teacher, strict=True):
        rho = log_prob(ids, refusal[:1]).exp().item()
        print(f"teacher refuses {1 - alpha:.2f}, student {rho:.2f}: {'harmful' if alpha < 0.5 else prompt}")
