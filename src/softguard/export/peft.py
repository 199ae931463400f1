"""`peft`: the soft prompt in PEFT's prompt-tuning layout. PEFT puts it in front of all embeddings, so only such students fit."""

import json
from pathlib import Path

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.errors import CompatibilityError
from softguard.export.protocol import EXPORTERS, Exported, StudentModel, transformers_tolerance
from softguard.export.refusal_entry import BakedRows
from softguard.runtimes import TransformersFolder

_SCRIPT = '''\
"""Ask the student one question. PEFT caches nothing between requests: the soft prompt is read anew in each."""

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}  # the base model: a folder or a name on the Hub
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype={dtype!r}), "adapter")
ids = tokenizer.apply_chat_template(
    [{{"role": "user", "content": sys.argv[1]}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
made = model.generate(**ids, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
'''


@EXPORTERS.register("peft")
class PEFTExporter:
    """Prompt tuning."""

    description = "an adapter folder for PEFT; students with all virtual tokens in front"
    carries = ("soft_prompt",)
    bakes_head = False

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        elsewhere = [slot for slot, _ in student.layout if slot != "front"]
        if elsewhere:
            found = f"some at {', '.join(elsewhere)}"
            raise CompatibilityError("all virtual tokens in front, where PEFT puts them", found, "export to gguf or hf-baked")

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        lm = student.lm
        config = SoftPromptConfig(num_virtual_tokens=len(student.virtual_tokens))
        SoftPrompt(config, student.virtual_tokens, lm.fingerprint).save(folder / "adapter", lm)
        where = Path(str(lm.network.config._name_or_path))
        here = (where / "config.json").is_file()
        base = str(where) if here else lm.reference
        known = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        (folder / "adapter" / "adapter_config.json").write_text(
            json.dumps(known | {"base_model_name_or_path": base}, indent=2) + "\n"
        )
        dtype = str(lm.dtype).removeprefix("torch.")
        (folder / "ask.py").write_text(_SCRIPT.format(base=base, dtype=dtype), encoding="utf-8")
        return Exported(
            command="python ask.py 'What is a tree?'",
            facts={"file_bytes": (folder / "adapter" / "adapter_model.safetensors").stat().st_size, "base": base},
            notes=("PEFT knows no operating point.",),
            start=(lambda at: TransformersFolder(where, lm.dtype, at / "adapter")) if here else None,
            tolerance_nats=transformers_tolerance(lm.dtype),
        )
