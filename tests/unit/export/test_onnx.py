"""The ONNX export: its graph is the network with and without a past, and the exported student is the student in memory."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from softguard.core import Conversation
from softguard.errors import CompatibilityError, ConfigError
from softguard.export import EXPORTERS, _decoder_graph
from softguard.models import refusal_log_odds
from softguard.recipes.export import ExportSettings, export_student
from softguard.recipes.export_checks import Reference
from softguard.runtimes import OnnxScript
from tests.fakes import tiny_model
from tests.unit.export.conftest import make_student

ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
has_onnx = pytest.mark.skipif(bool(ABSENT), reason=f"no {', '.join(ABSENT)}: pip install 'softguard[onnx]'")
FEW = ExportSettings(positions=400, prompts=6)
QUESTIONS = tuple(Conversation.from_prompt(text) for text in ("Name a tree.", "the other", "Why?", "a"))


def export_onnx(student, out):
    return export_student(EXPORTERS.get("onnx")(), "onnx", student, None, out, FEW, lambda *_: None)


@pytest.fixture(scope="module")
def exported(tiny_lm, tmp_path_factory):
    """Return the tiny student without an operating point, the folder of its export, and what verification found."""
    student = make_student(tiny_lm, threshold=None)
    out = tmp_path_factory.mktemp("onnx") / "out"
    return student, out, export_onnx(student, out)


def session_of(folder):
    import onnxruntime

    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def run(session, shape, ids, past, mask=None):
    """Return logits and the keys and values after `ids`, B x T; positions count what the mask, B x S, lets through."""
    names = [i.name for i in session.get_inputs()[3:]]
    if past is None:
        past = [np.zeros((len(ids), shape.heads, 0, shape.width), np.float32)] * len(names)
    total = past[0].shape[2] + ids.shape[1]
    mask = np.ones((len(ids), total), np.int64) if mask is None else mask[:, :total]
    positions = (mask.cumsum(1) - 1).clip(0)[:, -ids.shape[1] :]
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    logits, *present = session.run(None, inputs | dict(zip(names, past, strict=True)))
    return logits, present


@has_onnx
@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma3"])
def test_a_graph_is_the_network_in_one_piece_and_in_several(kind, tmp_path):
    lm = tiny_model(kind, window=6)
    ids = torch.randint(0, 250, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = lm.network(input_ids=ids).logits.numpy()
    shape = _decoder_graph.key_value_shape(lm.network)
    _decoder_graph.write_graph(lm.network, shape, tmp_path)
    session = session_of(tmp_path)
    whole, _ = run(session, shape, ids.numpy(), None)
    assert np.abs(whole - wanted).max() < 1e-4
    pieces, past = [], None
    for piece in np.split(ids.numpy(), [7, 8, 14, 15], axis=1):
        logits, past = run(session, shape, piece, past)
        pieces.append(logits)
    assert np.abs(np.concatenate(pieces, 1) - wanted).max() < 1e-4
    assert np.abs(wanted).max() > 0.1
    # A row that is padded on the left, in a batch with one that is not.
    padded = np.concatenate([np.zeros((1, 4), np.int64), ids.numpy()[:, :10]], 1)
    rows = np.concatenate([padded, ids.numpy()[:, :14]])
    mask = np.ones((2, 14), np.int64)
    mask[0, :4] = 0
    logits, _ = run(session, shape, rows, None, mask)
    assert np.abs(logits[0, 4:] - wanted[0, :10]).max() < 1e-4
    assert np.abs(logits[1] - wanted[0, :14]).max() < 1e-4


@has_onnx
def test_the_exported_student_is_the_student(exported):
    student, out, found = exported
    assert found["runtime"].startswith("ask.py in onnxruntime")
    assert found["warnings"] == []
    assert found["tokens"]["different"] == 0
    assert found["turns"]["once_each"]
    assert found["names"]["guessed_names_parsed"] == 0
    assert found["logits"]["largest_gap_nats"] < 1e-4
    assert found["logits"]["same_likeliest"] == 1
    assert found["continuation"]["tokens"] == 32
    assert found["continuation"]["identical"] == 1
    assert found["answers"]["agreement"] == 1
    assert "python ask.py" in (out / "README.md").read_text()
    reference = Reference(student, len(student.lm.embedding_weight))
    with OnnxScript(out) as runtime:
        for question in QUESTIONS:
            log_probs = runtime.log_probs(reference.ids(question), 5)
            wanted = torch.log_softmax(reference.logits([question])[0], -1)
            assert all(abs(p - float(wanted[i])) < 1e-4 for i, p in log_probs.items())


@has_onnx
def test_virtual_tokens_are_never_drawn(exported):
    student, out, found = exported
    first = len(student.lm.embedding_weight)
    assert found["speakability"]["largest_gap_nats"] < 0
    reference = Reference(student, first)
    with OnnxScript(out) as runtime:
        every = runtime.log_probs(reference.ids(QUESTIONS[0]), first + 5)
        assert len(every) == first + 5
        virtual = sum(np.exp(every[first + k]) for k in range(5))
        assert virtual <= found["speakability"]["largest_probability"] < 0.05
        drawn = [runtime.generate(reference.ids(q), 32, 1.0, seed) for seed, q in enumerate(QUESTIONS)]
        assert drawn[0] == runtime.generate(reference.ids(QUESTIONS[0]), 32, 1.0, 0)
        assert drawn[0] != runtime.generate(reference.ids(QUESTIONS[0]), 32, 1.0, 1)
    assert max(i for made in drawn for i in made) < first


@has_onnx
def test_the_operating_point_is_in_the_graph(tiny_lm, tmp_path):
    probe = make_student(tiny_lm)
    prompts = [probe.prompt_ids(q) for q in QUESTIONS]
    s = refusal_log_odds(tiny_lm, prompts, probe.refusal_token, probe.adapter.virtual_tokens())
    student = make_student(tiny_lm, threshold=float(np.median(s)))
    found = export_onnx(student, tmp_path / "out")
    assert found["logits"]["largest_gap_nats"] < 1e-4  # the reference has the rows that were fitted
    assert found["logits"]["same_likeliest"] == 1
    assert found["baked_decision"]["prompts"] == 6


@has_onnx
def test_what_genai_reads_names_the_graph(exported):
    student, out, _ = exported
    config = json.loads((out / "genai_config.json").read_text())
    model, decoder = config["model"], config["model"]["decoder"]
    session = session_of(out)
    layers = range(decoder["num_hidden_layers"])
    given, made = decoder["inputs"], decoder["outputs"]
    pasts = [given[name] % i for i in layers for name in ("past_key_names", "past_value_names")]
    presents = [made[name] % i for i in layers for name in ("present_key_names", "present_value_names")]
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask", "position_ids", *pasts]
    assert [o.name for o in session.get_outputs()] == ["logits", *presents]
    assert session.get_inputs()[3].shape[1::2] == [decoder["num_key_value_heads"], decoder["head_size"]]
    assert session.get_outputs()[0].shape[-1] == model["vocab_size"] == len(student.lm.embedding_weight) + 5
    assert set(model["eos_token_id"]) == student.lm.stop_ids


def test_without_the_packages_nothing_is_written(student, tmp_path, monkeypatch):
    monkeypatch.setattr(_decoder_graph, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"softguard\[onnx\]"):
        export_onnx(student, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_keep_something_else_are_refused():
    lm = tiny_model("llama")
    lm.network.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(CompatibilityError, match="chunked_attention"):
        _decoder_graph.key_value_shape(lm.network)
