"""A tiny student on a tiny GGUF."""

import pytest
import torch

from softguard.adapters.soft_prompt import Placement, SoftPrompt, SoftPromptConfig
from softguard.models import load_model
from softguard.recipes.export import Base
from softguard.recipes.student import ModelSystem
from softguard.sources.checks import file_sha256
from tests.tiny_gguf import write_tiny_gguf

SPLIT = tuple(Placement(slot=slot, count=count) for slot, count in (("front", 3), ("after_user", 1), ("after_header", 1)))
REFUSAL = "Sorry, no."


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("base") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_lm(tiny_gguf, tmp_path_factory):
    return load_apart(tiny_gguf, tmp_path_factory.mktemp("cache"))


def load_apart(path, cache):
    """Load a GGUF file, and keep what is made of it out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTGUARD_CACHE", str(cache))
        return load_model(str(path), dtype=torch.float32, device="cpu")


def make_student(lm, placement=SPLIT, threshold=-2.0, seed=0):
    count = sum(p.count for p in placement)
    config = SoftPromptConfig(num_virtual_tokens=count, placement=placement, initialisation="random")
    adapter = SoftPrompt.create(config, lm, seed)
    return ModelSystem("student", lm, adapter=adapter, threshold=threshold, refusal_text=REFUSAL)


@pytest.fixture
def student(tiny_lm):
    return make_student(tiny_lm)


@pytest.fixture
def base(tiny_gguf):
    return Base(tiny_gguf, file_sha256(tiny_gguf), True)
