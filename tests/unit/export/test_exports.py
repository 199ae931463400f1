"""Every format on a tiny student: what is written is the student, and what cannot be written is refused and leaves nothing."""

import errno
import json
import subprocess

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from softguard.adapters.soft_prompt import Placement
from softguard.core import Conversation
from softguard.errors import CompatibilityError, ConfigError, ExportError, SourceError
from softguard.export import EXPORTERS, protocol
from softguard.export import gguf as gguf_exporter
from softguard.export.refusal_entry import BakedRows
from softguard.models import refusal_log_odds
from softguard.recipes.export import Base, ExportSettings, export_student, find_base, student_model
from softguard.recipes.export_checks import Reference, agreement
from softguard.sources import is_cached
from softguard.sources.catalogue import find_entry
from softguard.sources.checks import file_sha256
from tests.tiny_gguf import WIDTH, tokens, write_tiny_gguf
from tests.unit.export.conftest import load_apart, make_student

FRONT = (Placement(slot="front", count=4),)
FEW = ExportSettings(positions=400, prompts=6)
has_server = pytest.mark.skipif(not is_cached(find_entry("llama-server")), reason="run `softguard models pull llama-server`")


def silent(*_):
    pass


def no_runtime(monkeypatch):
    """Let the GGUF exporter write without running what it wrote."""
    write = gguf_exporter.GGUFExporter.write

    def unverified(self, student, rows, folder):
        return protocol.Exported(**{**vars(write(self, student, rows, folder)), "start": None})

    monkeypatch.setattr(gguf_exporter.GGUFExporter, "write", unverified)


def to_gguf(student, base, out):
    return export_student(EXPORTERS.get("gguf")(), "gguf", student, base, out, FEW, silent)


def one_of(folder, suffix):
    return next(p for p in folder.iterdir() if p.suffix == suffix)


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.F16, Type.Q4_0])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_differs_from_its_base_only_where_it_says(tmp_path, monkeypatch, kind, tied):
    no_runtime(monkeypatch)
    path = write_tiny_gguf(tmp_path / "base.gguf", embedding=kind, tied=tied, add_bos=True)
    before = file_sha256(path)
    student = make_student(load_apart(path, tmp_path / "cache"))
    found = to_gguf(student, Base(path, before, True), tmp_path / "out")
    assert file_sha256(path) == before
    old, new = gguf.GGUFReader(path), gguf.GGUFReader(one_of(tmp_path / "out", ".gguf"))
    a, b = {t.name: t for t in old.tensors}, {t.name: t for t in new.tensors}
    assert set(b) == set(a) | {"output.weight"}
    for name in set(a) - {"token_embd.weight", "output.weight"}:
        assert np.array_equal(a[name].data, b[name].data)
    count, vocabulary = 5, tokens()
    entry = "".join(student.lm.tokenizer.convert_ids_to_tokens(student.renderer.encode_response(student.refusal_text)))
    table = b["token_embd.weight"]
    assert table.tensor_type == (Type.Q8_0 if kind == Type.Q4_0 else kind)
    decoded = gguf.quants.dequantize(table.data, table.tensor_type)
    virtual = student.adapter.virtual_tokens().detach().numpy()
    assert decoded.shape == (len(vocabulary) + count + 1, WIDTH)
    assert np.abs(decoded[-count - 1 : -1] - virtual).max() < 0.01 * np.abs(virtual).max()
    if kind != Type.Q4_0:
        assert np.array_equal(table.data[: -count - 1], a["token_embd.weight"].data)
    head, was = b["output.weight"], a["token_embd.weight" if tied else "output.weight"]
    changed = [i for i in range(len(vocabulary)) if not np.array_equal(head.data[i], was.data[i])]
    assert set(changed) <= {student.refusal_token}  # as much as the first positions ask for, which may be nothing
    fields = new.fields
    assert fields["tokenizer.ggml.tokens"].contents()[: len(vocabulary)] == vocabulary
    *names, last = fields["tokenizer.ggml.tokens"].contents()[len(vocabulary) :]
    assert last == entry
    assert len(set(names)) == count
    assert fields["tokenizer.ggml.token_type"].contents()[-count - 1 :] == [3] * count + [1]
    assert fields["llama.vocab_size"].contents() == len(vocabulary) + count + 1
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert all(name in fields["tokenizer.chat_template"].contents() for name in names)
    for key in ("tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre"):
        assert fields[key].contents() == old.fields[key].contents()
    assert found["facts"]["head_was_tied"] is tied
    assert found["speakability"]["largest_gap_nats"] < 0
    assert found["runtime"] is None
    assert "written, not run" in found["warnings"][0]


def test_a_gguf_read_back_by_transformers_is_the_student(student, base, tmp_path, monkeypatch):
    no_runtime(monkeypatch)
    kept = {}
    write = gguf_exporter.GGUFExporter.write

    def watched(self, student, rows, folder):
        kept.update(rows=rows, names=student.names)
        return write(self, student, rows, folder)

    monkeypatch.setattr(gguf_exporter.GGUFExporter, "write", watched)
    to_gguf(student, base, tmp_path / "out")
    again = load_apart(one_of(tmp_path / "out", ".gguf"), tmp_path / "cache")
    reference = Reference(student, len(tokens()), len(kept["names"]), kept["rows"].refusal.head, kept["rows"].refusal.first_token)
    conversations = [Conversation.from_prompt(t) for t in ("Name a tree.", "the other", "Why?")]
    for conversation in conversations:
        ids = again.tokenizer.apply_chat_template(conversation.to_dicts(), add_generation_prompt=True, return_dict=False)
        assert ids == reference.ids(conversation)
        logits = again.network(torch.tensor([ids])).logits[0, -1].float()
        wanted = reference.logits([conversation])[0]
        columns = [reference.column(i) for i in range(len(logits))]
        assert columns == [*range(len(tokens())), *[None] * len(kept["names"]), len(tokens())]
        real = [i for i, column in enumerate(columns) if column is not None]
        assert (logits[real] - wanted).abs().max() < 0.05 * wanted.abs().max()
        assert int(logits.argmax()) in real


def test_the_papers_beside_a_file(student, base, tmp_path, monkeypatch):
    no_runtime(monkeypatch)
    found = to_gguf(student, base, tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((out / "verify.json").read_text()) == found
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False).returncode == 0
    assert "llama-server -m student.gguf --jinja" in (out / "README.md").read_text()
    assert "Written by softguard, not run" in (out / "Modelfile").read_text()
    template = (out / "Modelfile").read_text().partition('TEMPLATE """')[2].partition('"""')[0]
    assert template.count("<|im_start|>") == 3
    order = ("_2|>", "{{ .System }}", "{{ .Prompt }}", "_3|>", "assistant", "_4|>", "{{ .Response }}")
    assert [template.index(piece) for piece in order] == sorted(template.index(piece) for piece in order)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@has_server
def test_a_gguf_in_llama_server(tiny_lm, base, tmp_path):
    probe = make_student(tiny_lm)
    conversations = [r for r in ("a", "b", "Name a tree.", "Why?")]
    s = refusal_log_odds(
        tiny_lm,
        [probe.prompt_ids(Conversation.from_prompt(t)) for t in conversations],
        probe.refusal_token,
        probe.adapter.virtual_tokens(),
    )
    student = make_student(tiny_lm, threshold=float(np.median(s)))
    found = to_gguf(student, base, tmp_path / "out")
    assert found["runtime"].startswith("llama-server")
    assert found["tokens"]["different"] == 0
    assert found["turns"]["virtual_tokens"] == [5, 5, 5, 5]
    assert found["names"]["guessed_names_parsed"] == 0
    assert found["names"]["true_names_parsed"] == 4
    assert found["logits"]["mean_gap_nats"] < 0.4
    assert found["logits"]["correlation"] > 0.98
    assert found["answers"]["prompts"] == 6
    counts = found["answers"]["counts"]
    refused, ended = counts["both_refuse"] + counts["runtime_only"], found["answers"]["runtime_refusals_that_end_there"]
    # Random weights may not be brought to end a turn; then the export says so.
    assert any("went on after" in w for w in found["warnings"]) == (ended < refused)


@pytest.mark.parametrize(("to", "placement"), [("hf-baked", None), ("vllm-embeds", None), ("peft", FRONT)])
def test_formats_that_transformers_runs(to, placement, tiny_lm, base, tmp_path):
    student = make_student(tiny_lm, placement) if placement else make_student(tiny_lm)
    found = export_student(EXPORTERS.get(to)(), to, student, base, tmp_path / "out", FEW, silent)
    assert found["tokens"]["different"] == 0
    assert found["logits"]["largest_gap_nats"] < 1e-3
    assert found["logits"]["same_likeliest"] == 1
    assert found["answers"]["agreement"] == 1
    if to != "peft":
        assert found["turns"]["once_each"]
    if to != "hf-baked":
        assert found["continuation"]["identical"] == 1
        assert "is not in this file" in (tmp_path / "out" / "README.md").read_text()


def test_peft_cannot_place_tokens_elsewhere(student, base, tmp_path):
    with pytest.raises(CompatibilityError, match="in front"):
        export_student(EXPORTERS.get("peft")(), "peft", student, base, tmp_path / "out", FEW, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"tokenizer": "llama"}, "byte-level BPE"),
        ({"seed": 1}, "embeddings of the run's base model"),
        ({"width": 64}, "token_embd.weight of"),
    ],
)
def test_wrong_bases(student, tmp_path, made, said):
    path = write_tiny_gguf(tmp_path / "other.gguf", **made)
    with pytest.raises(CompatibilityError, match=said):
        to_gguf(student, Base(path, "0", False), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["other.gguf"]


def test_another_quantisation_of_the_base_is_taken(student, tmp_path, monkeypatch):
    no_runtime(monkeypatch)
    path = write_tiny_gguf(tmp_path / "f16.gguf", embedding=Type.F16)
    found = to_gguf(student, Base(path, file_sha256(path), False), tmp_path / "out")
    assert found["facts"]["base_is_the_trained_one"] is False
    assert found["facts"]["types"]["token_embd.weight"] == "F16"


def test_a_truncated_base(student, tiny_gguf, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:-500])
    with pytest.raises(SourceError, match=r"cut\.gguf"):
        to_gguf(student, Base(tmp_path / "cut.gguf", "0", False), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.gguf"]


def test_without_a_base(student, tmp_path):
    with pytest.raises(CompatibilityError, match="--base"):
        to_gguf(student, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="no file"):
        find_base("smollm2-135m", tmp_path / "absent.gguf")


def test_the_runs_own_file_is_known_by_its_hash(tiny_gguf, tmp_path):
    own = find_base(str(tiny_gguf), None)
    assert own == Base(tiny_gguf, file_sha256(tiny_gguf), True)
    (tmp_path / "copy.gguf").write_bytes(tiny_gguf.read_bytes())
    assert find_base(str(tiny_gguf), tmp_path / "copy.gguf").own
    assert not find_base(str(tiny_gguf), write_tiny_gguf(tmp_path / "other.gguf", seed=1)).own


def test_what_is_there_stays(student, base, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        to_gguf(student, base, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing(student, base, tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"GGUF")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(gguf_exporter, "write_gguf", full)
    with pytest.raises(OSError, match="No space"):
        to_gguf(student, base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ExportError, match="make room"):
        to_gguf(student, base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_not_the_student_is_not_kept(student, base, tmp_path, monkeypatch):
    exporter = EXPORTERS.get("hf-baked")
    write = exporter.write

    def wrong(self, given, rows, folder):
        other = student_model(make_student(student.lm, seed=1), base, "other")
        return write(self, protocol.StudentModel(**{**vars(given), "virtual_tokens": other.virtual_tokens}), rows, folder)

    monkeypatch.setattr(exporter, "write", wrong)
    with pytest.raises(ExportError, match="log-probabilities"):
        export_student(exporter(), "hf-baked", student, base, tmp_path / "out", FEW, silent)
    assert list(tmp_path.iterdir()) == []


def test_speakable_tokens_are_not_kept(student, base, tmp_path, monkeypatch):
    loud = BakedRows(100 * torch.ones(WIDTH), None)
    monkeypatch.setattr("softguard.recipes.export.fitted_rows", lambda *_: loud)
    with pytest.raises(ExportError, match="cannot be said"):
        export_student(EXPORTERS.get("hf-baked")(), "hf-baked", student, base, tmp_path / "out", FEW, silent)
    assert list(tmp_path.iterdir()) == []


def test_agreement():
    found = agreement([True, True, False, False], [True, False, False, False])
    assert found["agreement"] == 0.75
    assert found["kappa"] == pytest.approx(0.5)
    assert found["counts"] == {"both_refuse": 1, "neither": 2, "in_memory_only": 1, "runtime_only": 0}
    assert agreement([True], [True])["kappa"] is None
