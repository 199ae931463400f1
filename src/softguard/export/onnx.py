"""`onnx`: a student as an ONNX graph with the virtual tokens in its vocabulary, for ONNX Runtime and ONNX Runtime GenAI.

References:
    https://onnxruntime.ai/docs/genai/reference/config.html
"""

import json
from pathlib import Path
from typing import Any

from softguard.export import _decoder_graph as graph
from softguard.export.baked import baked_network, baked_tokenizer, check_bakeable, first_baked_id
from softguard.export.protocol import EXPORTERS, Exported, StudentModel, transformers_tolerance
from softguard.export.refusal_entry import BakedRows
from softguard.runtimes import OnnxScript

_SCRIPT = '''\
"""One answer of this model in ONNX Runtime: `python ask.py "What is a tree?"` needs onnxruntime, numpy and transformers."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

HERE = Path(__file__).parent
MODEL = json.loads((HERE / "genai_config.json").read_text(encoding="utf-8"))["model"]
STOP = set(MODEL["eos_token_id"])


def load():
    """Return the session and the tokenizer."""
    session = onnxruntime.InferenceSession(HERE / MODEL["decoder"]["filename"], providers=["CPUExecutionProvider"])
    return session, AutoTokenizer.from_pretrained(HERE, local_files_only=True)


def prompt_ids(messages, tokenizer):
    """Return the ids of a chat, the virtual tokens where the template puts them."""
    return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)


def step(session, ids, past=None):
    """Return the logits after each of `ids`, and the keys and values of all positions so far: the next step's `past`."""
    names = [i.name for i in session.get_inputs()[3:]]
    if past is None:
        decoder = MODEL["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        past = [empty] * len(names)
    before = past[0].shape[2]
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, before + len(ids)), np.int64),
        "position_ids": np.arange(before, before + len(ids))[None],
    }
    logits, *present = session.run(None, inputs | dict(zip(names, past)))
    return logits[0], present


def generate(session, ids, count, choose=np.argmax):
    """Return at most `count` next ids; `choose` takes one of the logits. It ends where the model ends its turn."""
    made, past, given = [], None, list(ids)
    while len(made) < count:
        logits, past = step(session, given, past)
        given = [int(choose(logits[-1]))]
        made += given
        if made[-1] in STOP:
            break
    return made


if __name__ == "__main__":
    session, tokenizer = load()
    ids = prompt_ids([{"role": "user", "content": sys.argv[1]}], tokenizer)
    print(tokenizer.decode(generate(session, ids, 64), skip_special_tokens=True))
'''


@EXPORTERS.register("onnx")
class OnnxExporter:
    """Baked vocabulary in an ONNX graph with keys and values as inputs and outputs."""

    description = "an ONNX graph with tokenizer and template for ONNX Runtime and ONNX Runtime GenAI"
    carries = ("soft_prompt",)
    bakes_head = True

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        graph.check_packages()
        check_bakeable(student)
        graph.key_value_shape(student.lm.network)

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        assert rows is not None
        lm = student.lm
        shape = graph.key_value_shape(lm.network)
        # ONNX Runtime's kernels for the processor are float32's: bf16 has few.
        graph.write_graph(baked_network(student, rows).float(), shape, folder)
        baked_tokenizer(student, rows).save_pretrained(folder)
        (folder / "genai_config.json").write_text(
            json.dumps(_genai_config(student, shape, rows), indent=2) + "\n", encoding="utf-8"
        )
        (folder / "ask.py").write_text(_SCRIPT, encoding="utf-8")
        return Exported(
            command="python ask.py 'What is a tree?'",
            facts={
                "file_bytes": sum(p.stat().st_size for p in folder.iterdir()),
                "dtype": "float32",
                "trained_in": str(lm.dtype).removeprefix("torch."),
                "weights": "the base's as the student was trained against, so a quantised base comes out dequantised",
            },
            notes=(
                "Checked in ONNX Runtime on the processor, by `ask.py`.",
                "`genai_config.json` is for ONNX Runtime GenAI, where this file was not run. Give it the ids that `prompt_ids` "
                "of `ask.py` makes: its own rendering of the chat template made others in a "
                "trial, and other ids are another model.",
                "Weights are float32. Quantised further (`onnxruntime.quantization`) it is another model: measure it again.",
                "`ask.py` computes the virtual tokens with each request. An application keeps the keys and values that `step` "
                "returns for them.",
            ),
            first_virtual_id=first_baked_id(student),
            start=OnnxScript,
            tolerance_nats=transformers_tolerance(lm.dtype),
        )


def _genai_config(student: StudentModel, shape: graph.KeyValueShape, rows: BakedRows) -> dict[str, Any]:
    """Return what ONNX Runtime GenAI reads: names and sizes of the graph, ids that end an answer, greedy search."""
    lm = student.lm
    stop = sorted(lm.stop_ids)
    padding = lm.tokenizer.pad_token_id
    context = lm.context or 4096
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": graph.FILE,
        "head_size": shape.width,
        "hidden_size": lm.width,
        "inputs": {name: name for name in graph.INPUTS}
        | {"past_key_names": graph.PAST_KEY, "past_value_names": graph.PAST_VALUE},
        "outputs": {"logits": "logits", "present_key_names": graph.PRESENT_KEY, "present_value_names": graph.PRESENT_VALUE},
        "num_attention_heads": int(lm.network.config.num_attention_heads),
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
    }
    model = {
        "bos_token_id": lm.tokenizer.bos_token_id,
        "context_length": context,
        "decoder": decoder,
        "eos_token_id": stop,
        "pad_token_id": stop[0] if padding is None else padding,
        "type": "decoder",
        "vocab_size": first_baked_id(student) + len(student.names) + (rows.refusal is not None),
    }
    # The graph appends to keys and values; it does not write them into a buffer of the greatest length.
    search = {"do_sample": False, "max_length": context, "past_present_share_buffer": False}
    return {"model": {k: v for k, v in model.items() if v is not None}, "search": search}
