"""Models in 4 bits: what is loaded, what it is known by, and what is said where it cannot be."""

import pytest
import torch

from softguard.costs import ModelShape
from softguard.errors import CompatibilityError, ConfigError
from softguard.models import held_bytes, load_model, quantisation
from tests.fakes import byte_tokenizer, tiny_model

pytest.importorskip("bitsandbytes")
FLOAT = {"dtype": torch.float32, "device": "cpu"}


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama", width=64).network.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_layers_are_packed_and_nothing_else(folder, dtype):
    plain, packed = (load_model(folder, dtype=dtype, device="cpu", quantisation=q) for q in ("none", "nf4"))
    assert (plain.quantisation, packed.quantisation) == ("none", "nf4")
    assert packed.fingerprint != plain.fingerprint
    assert plain.fingerprint == load_model(folder, dtype=dtype, device="cpu").fingerprint  # caches of before stay good
    assert packed.dtype == plain.dtype == dtype
    assert torch.equal(packed.embedding_weight, plain.embedding_weight)
    assert packed.attention == plain.attention
    assert packed.num_parameters() == plain.num_parameters()
    shapes = [ModelShape.of(lm.network) for lm in (plain, packed)]
    assert shapes[0] == shapes[1]
    inside = shapes[0].body_weights
    bytes_held = (plain.num_parameters() - inside) * dtype.itemsize + inside * quantisation.NF4_BYTES
    assert held_bytes(packed.network) == round(bytes_held)
    assert held_bytes(plain.network) == plain.num_parameters() * dtype.itemsize
    layers = [m for m in packed.network.modules() if hasattr(getattr(m, "weight", None), "quant_state")]
    assert sum(quantisation.weight_count(m.weight) for m in layers) == inside
    for layer in layers:  # no layout without a backward pass, whatever the processor
        assert layer.support_avx512bf16_for_cpu is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpacked_weights_are_near_the_models(folder, dtype):
    plain, packed = (load_model(folder, dtype=dtype, device="cpu", quantisation=q).blocks[0].mlp.up_proj for q in ("none", "nf4"))
    gap = (quantisation.unpacked(packed) - quantisation.unpacked(plain)).abs().reshape(-1, 64)
    blocks = plain.weight.reshape(-1, 64).abs().amax(1, keepdim=True)
    assert gap.max() > 0
    assert (gap <= 0.16 * blocks).all()  # half the widest gap between NF4's levels is 0.15 of a block's largest


def test_without_the_library_it_says_what_to_install_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'softguard\[quantise\]'"):
        load_model("hf:nobody/nothing", quantisation="nf4", **FLOAT)


def test_other_types_and_gguf_files_are_refused(folder, tmp_path):
    with pytest.raises(CompatibilityError, match="float32 or bfloat16"):
        load_model(folder, dtype=torch.float64, device="cpu", quantisation="nf4")
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(CompatibilityError, match="not quantised yet"):
        load_model(str(tmp_path / "some.gguf"), quantisation="nf4", **FLOAT)


def test_rows_that_end_within_a_block_are_refused(tmp_path):
    """With AVX512 the library unpacks them wrongly, and says nothing."""
    tiny_model("llama", width=32).network.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CompatibilityError, match="rows of a multiple of 64 weights; found 32"):
        load_model(str(tmp_path), quantisation="nf4", **FLOAT)


def test_experts_are_refused(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CompatibilityError, match="linear layers"):
        load_model(str(tmp_path), quantisation="nf4", **FLOAT)


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(CompatibilityError, match="none in Embedding"):
        quantisation.settle(torch.nn.Embedding(2, 2))
