"""LoRAs and directions for llama.cpp: the file says what the adapter says, in the base's own order of rows, and runs as it."""

import json
import math
import subprocess

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from softguard.adapters import ADAPTERS, Lora
from softguard.adapters.difference_of_means import DifferenceOfMeansConfig
from softguard.adapters.kv_prefix import KVPrefixConfig
from softguard.adapters.lora import LoraConfig
from softguard.adapters.steering_vector import SteeringVectorConfig
from softguard.errors import CompatibilityError, ExportError
from softguard.export import EXPORTERS, protocol
from softguard.export.gguf_file import GGUFFile
from softguard.export.gguf_lora import rows_order
from softguard.export.quantised import decode
from softguard.recipes.export import Base, ExportSettings, export_student
from softguard.recipes.student import ModelSystem
from softguard.sources import is_cached
from softguard.sources.catalogue import find_entry
from softguard.sources.checks import file_sha256
from tests.tiny_gguf import HEADS, KV_HEADS, LAYERS, WIDTH, write_tiny_gguf
from tests.unit.export.conftest import REFUSAL, load_apart, make_student

FEW = ExportSettings(positions=400, prompts=6)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEAD_WIDTH = WIDTH // HEADS
has_server = pytest.mark.skipif(not is_cached(find_entry("llama-server")), reason="run `softguard models pull llama-server`")
FORMATS = {"lora": "gguf-lora", "steering_vector": "gguf-control-vector", "difference_of_means": "gguf-control-vector"}


def silent(*_):
    pass


def student_with(lm, config, seed=0):
    """Return a student whose adapter is not what it is when fresh, which does nothing."""
    adapter = ADAPTERS.get(config.kind).create(config, lm, 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if config.kind == "lora" else 1.5))
    return ModelSystem("student", lm, adapter=adapter, threshold=0.0, refusal_text=REFUSAL)


def lora(lm, seed=0, targets=ALL, rank=2, scaling=1.5):
    return student_with(lm, LoraConfig(rank=rank, target_modules=targets, scaling=scaling), seed)


def vector(lm, layer=1):
    return student_with(lm, SteeringVectorConfig(layer=layer))


@pytest.fixture
def unrun(monkeypatch):
    """Let exporters write without running what they wrote."""
    for name in set(FORMATS.values()):
        kind = EXPORTERS.get(name)

        def unverified(self, student, rows, folder, write=kind.write):
            return protocol.Exported(**{**vars(write(self, student, rows, folder)), "start": None})

        monkeypatch.setattr(kind, "write", unverified)


def export(student, base, out, to=None):
    to = to or FORMATS[student.adapter.config.kind]
    return export_student(EXPORTERS.get(to)(), to, student, base, out, FEW, silent)


def test_a_lora_adds_in_the_files_order_what_it_adds_in_memory(tiny_lm, base, tmp_path, unrun):
    """W of the file plus (alpha / rank) B A is W + scaling B A of transformers, Llama's q and k permuted: by definition."""
    student = lora(tiny_lm)
    found = export(student, base, tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "student.lora.gguf")
    tensors = {t.name: t.data for t in reader.tensors}
    assert len(tensors) == 2 * LAYERS * len(ALL)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.type"].contents() == "lora"
    alpha = reader.fields["adapter.lora.alpha"].contents()
    file = GGUFFile(base.path)
    for module, (a, b) in student.adapter.pairs().items():
        layer, short = module.split(".")[2], module.rsplit(".", 1)[-1]
        name = {"o_proj": "attn_output", **{f"{x}_proj": f"attn_{x}" for x in "qkv"}}.get(short, f"ffn_{short.split('_')[0]}")
        name = f"blk.{layer}.{name}.weight"
        weight, added = tiny_lm.network.get_submodule(module).weight, student.adapter.config.scaling * (b @ a)
        if short in ("q_proj", "k_proj"):
            heads = HEADS if short == "q_proj" else KV_HEADS
            weight, added = (
                x.reshape(heads, 2, HEAD_WIDTH // 2, WIDTH).transpose(1, 2).reshape(-1, WIDTH) for x in (weight, added)
            )
        lora_a, lora_b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        assert np.abs(decode(file, name) - weight.detach().numpy()).max() < 5e-3  # bf16 in between
        assert np.abs(alpha / lora_b.shape[1] * lora_b @ lora_a - added.detach().numpy()).max() < 1e-5
    assert found["facts"]["tensors_with_rows_reordered"] == 2 * LAYERS
    assert found["facts"]["base_sha256"] == base.sha256


def test_rows_that_no_converter_moved_stay(tiny_gguf):
    file = GGUFFile(tiny_gguf)
    name = "blk.0.attn_q.weight"
    weight = decode(file, name)
    assert (rows_order(file, name, weight, HEAD_WIDTH) == np.arange(WIDTH)).all()
    with pytest.raises(CompatibilityError, match="weights of the run's base model"):
        rows_order(file, name, weight[::-1], HEAD_WIDTH)
    with pytest.raises(CompatibilityError, match=r"blk\.0\.attn_q\.weight of"):
        rows_order(file, name, weight[:16], HEAD_WIDTH)


@pytest.mark.parametrize("config", [SteeringVectorConfig(layer=1), DifferenceOfMeansConfig(layer=1)], ids=lambda c: c.kind)
def test_a_direction_keeps_its_number(tiny_lm, base, tmp_path, unrun, config):
    student = student_with(tiny_lm, config)
    export(student, base, tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "student.control-vector.gguf")
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type) == ("direction.1", Type.F32)
    assert np.array_equal(tensor.data, student.adapter.vector.detach().numpy())
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"


@pytest.mark.parametrize("make", [lora, vector])
def test_the_papers_beside_an_adapter(tiny_lm, base, tmp_path, unrun, make):
    student = make(tiny_lm)
    before = file_sha256(base.path)
    found = export(student, base, tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((out / "verify.json").read_text()) == found
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False).returncode == 0
    readme = (out / "README.md").read_text()
    kind, option = ("lora", "--lora student") if make is lora else ("steering vector", "--control-vector-scaled student")
    assert f"learned numbers ({kind})" in readme
    assert f"llama-server -m {base.path} {option}" in readme
    assert "add_bos_token=bool:false" in readme
    assert file_sha256(base.path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("config", "to", "said"),
    [
        (LoraConfig(), "gguf", "export it to gguf-lora"),
        (LoraConfig(), "gguf-control-vector", "steering_vector"),
        (SteeringVectorConfig(layer=1), "gguf-lora", "export it to gguf-control-vector"),
        (SteeringVectorConfig(layer=1), "hf-baked", "export it to gguf-control-vector"),
        (SteeringVectorConfig(layer=0), "gguf-control-vector", "block 1 or later"),
        (KVPrefixConfig(num_positions=2, initialisation="text"), "gguf-lora", "no export of this adapter"),
    ],
)
def test_adapters_that_a_format_cannot_hold(tiny_lm, base, tmp_path, config, to, said):
    student = ModelSystem("student", tiny_lm, adapter=ADAPTERS.get(config.kind).create(config, tiny_lm, 0), refusal_text=REFUSAL)
    with pytest.raises(CompatibilityError, match=said):
        export(student, base, tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lora, vector])
@pytest.mark.parametrize("made", [{"seed": 1}, {"width": 64}])
def test_wrong_bases(tiny_lm, tmp_path, make, made):
    path = write_tiny_gguf(tmp_path / "other.gguf", **made)
    with pytest.raises(CompatibilityError, match="--base"):
        export(make(tiny_lm), Base(path, "0", False), tmp_path / "out")
    with pytest.raises(CompatibilityError, match="--base"):
        export(make(tiny_lm), None, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["other.gguf"]


def test_a_soft_prompt_has_formats_of_its_own(tiny_lm, base, tmp_path):
    with pytest.raises(CompatibilityError, match="export it to gguf or hf-baked"):
        export(make_student(tiny_lm), base, tmp_path / "out", "gguf-lora")


@pytest.mark.slow
@has_server
@pytest.mark.parametrize(("make", "add_bos"), [(lora, True), (vector, False)])
def test_adapters_in_llama_server(tmp_path, make, add_bos):
    """With weights that both hold alike, nothing but the order of sums and keys in half precision is between the two."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", embedding=Type.F32, weights=Type.F32, add_bos=add_bos)
    student = make(load_apart(path, tmp_path / "cache"))
    found = export(student, Base(path, file_sha256(path), True), tmp_path / "out")
    assert found["runtime"].startswith("llama-server")
    assert found["tokens"]["different"] == 0
    assert found["logits"]["correlation"] > 0.999
    assert found["logits"]["mean_gap_nats"] < 0.05
    assert found["continuation"]["share_of_equal_tokens"] > 0.9
    assert not math.isnan(found["answers"]["agreement"])


@pytest.mark.slow
@has_server
def test_a_lora_whose_rows_were_left_as_they_are_is_not_kept(tiny_lm, base, tmp_path, monkeypatch):
    """What the check is for: the same file with q and k in transformers' order does not come out as the student."""
    monkeypatch.setattr("softguard.export.gguf_lora.rows_order", lambda file, tensor, weight, width: np.arange(len(weight)))
    student = lora(tiny_lm, targets=("q_proj", "k_proj"), rank=8, scaling=6.0)
    assert isinstance(student.adapter, Lora)
    with pytest.raises(ExportError, match="log-probabilities"):
        export(student, base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
