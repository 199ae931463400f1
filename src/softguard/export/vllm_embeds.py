"""`vllm-embeds`: the virtual tokens as a file of embeddings, with a script that makes vLLM's prompt embeddings of a chat.

References:
    https://docs.vllm.ai/en/stable/features/prompt_embeds/
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from softguard.export.chat_template import bake_template, check_template
from softguard.export.protocol import EXPORTERS, Exported, StudentModel, transformers_tolerance
from softguard.export.refusal_entry import BakedRows
from softguard.runtimes import EmbedsScript

_SCRIPT = '''\
"""Chats as prompt embeddings, the soft prompt in its place: `python chat_embeds.py BASE "What is a tree?"` answers in vLLM."""

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
PLACES = json.loads((HERE / "places.json").read_text(encoding="utf-8"))
VIRTUAL = load_file(HERE / "virtual_tokens.safetensors")["prompt_embeddings"]


def prompt_ids(messages, tokenizer, first):
    """Return the ids of a chat; virtual token k has the id first + k."""
    text = tokenizer.apply_chat_template(
        messages, chat_template=PLACES["template"], tokenize=False, add_generation_prompt=True
    )
    names = {name: first + k for k, name in enumerate(PLACES["names"])}
    ids = []
    for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        ids += [names[piece]] if piece in names else tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def prompt_embeds(ids, embedding):
    """Return T x D embeddings for ids; `embedding` is the model's input embedding layer."""
    first = embedding.weight.shape[0]
    given = torch.tensor(ids)
    rows = embedding(given.clamp(max=first - 1))
    virtual = VIRTUAL.to(rows.dtype)[(given - first).clamp(min=0)]
    return torch.where((given >= first)[:, None], virtual, rows)


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM, SamplingParams

    base, question = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(base)
    embedding = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings()
    ids = prompt_ids([{"role": "user", "content": question}], tokenizer, embedding.weight.shape[0])
    llm = LLM(model=base, enable_prompt_embeds=True)
    with torch.inference_mode():
        request = {"prompt_embeds": prompt_embeds(ids, embedding)}
    print(llm.generate(request, SamplingParams(temperature=0, max_tokens=64))[0].outputs[0].text)
'''


@EXPORTERS.register("vllm-embeds")
class VLLMEmbedsExporter:
    """Prompt embeddings."""

    description = "a file of embeddings with a script for vLLM's prompt embeddings"
    carries = ("soft_prompt",)
    bakes_head = False

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        _template(student)

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        lm = student.lm
        save_file({"prompt_embeddings": student.virtual_tokens.float().cpu().contiguous()}, folder / "virtual_tokens.safetensors")
        places = {"names": student.names, "template": _template(student)}
        (folder / "places.json").write_text(json.dumps(places, indent=1) + "\n", encoding="utf-8")
        (folder / "chat_embeds.py").write_text(_SCRIPT, encoding="utf-8")
        where = Path(str(lm.network.config._name_or_path))
        here = (where / "config.json").is_file()
        return Exported(
            command=f"python chat_embeds.py {where if here else lm.reference} 'What is a tree?'",
            facts={"file_bytes": (folder / "virtual_tokens.safetensors").stat().st_size},
            notes=(
                "The embeddings that the script makes were checked in transformers. vLLM was not run.",
                "The script renders one chat at a time; whether vLLM caches the prefix of embeddings was not tried.",
            ),
            first_virtual_id=len(lm.embedding_weight),
            start=(lambda at: EmbedsScript(at / "chat_embeds.py", where, lm.dtype)) if here else None,
            tolerance_nats=transformers_tolerance(lm.dtype),
        )


def _template(student: StudentModel) -> str:
    baked = bake_template(student.lm.tokenizer.chat_template, student.names_by_slot, student.lm.tokenizer)
    check_template(baked, student.lm.tokenizer, student.layout, student.names)
    return baked
