"""Which dtype a machine is given: measured once, remembered, and the slower one never chosen by much."""

import json
from pathlib import Path

import pytest
import torch

from softguard.models import fast_dtype, hardware


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("bf16", "fp32", "chosen"), [(1.0, 2.0, "bfloat16"), (8.0, 1.0, "float32"), (1.2, 1.0, "bfloat16")])
def test_float32_only_where_it_is_much_faster(monkeypatch: pytest.MonkeyPatch, bf16: float, fp32: float, chosen: str) -> None:
    seconds = {torch.bfloat16: bf16, torch.float32: fp32}
    monkeypatch.setattr(hardware, "_product_seconds", seconds.__getitem__)
    assert fast_dtype("cpu") is getattr(torch, chosen)


def test_what_was_measured_is_remembered(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    first = fast_dtype("cpu")
    monkeypatch.setattr(hardware, "_product_seconds", lambda dtype: pytest.fail("measured again"))
    assert fast_dtype("cpu") is first
    (remembered,) = (empty_cache / "machine").glob("*.json")
    seconds = json.loads(remembered.read_text())["product_seconds"]
    slower = max(seconds, key=seconds.__getitem__)
    assert seconds[slower] <= 1.25 * min(seconds.values()) or slower != str(first).removeprefix("torch.")


def test_an_accelerator_that_we_cannot_measure_gets_bf16() -> None:
    assert fast_dtype("mps") is torch.bfloat16
