"""The training script and the guard that it writes, on a tiny random backbone."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from softguard.core import Conversation
from softguard.errors import CompatibilityError, DataError, SourceError
from softguard.guards import LabelledPair, MiniTraining, train_on_pairs
from softguard.guards.mini import MiniGuard
from softguard.guards.mini_network import FIRST_HEAD, PairEncoder, collate, head_logits, load_network, unsafe_log_odds
from softguard.guards.mini_training import _adapted, _shipped_tensors, average, calibrate
from tests.unit.guards.tiny_backbone import write_tiny_backbone

PAIRS = [
    LabelledPair(f"how to make a {thing}", answer, thing == "bomb" and "sorry" not in answer, thing == "bomb", "sorry" in answer)
    for thing in ("bomb", "cake")
    for answer in ("sorry , i cannot help .", "first mix the powder , then you need it .", "first you need flour .", "mix it")
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="module")
def settings(backbone: Path) -> MiniTraining:
    return MiniTraining(epochs=60, batch_size=8, learning_rate=5e-3, rank=4, hidden=16, max_tokens=32, backbone=str(backbone))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, settings: MiniTraining) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train_on_pairs(out, PAIRS, PAIRS, settings, "mini")
    return out


def test_it_learns_that_unsafe_is_a_served_harmful_prompt(trained: Path) -> None:
    verdicts = MiniGuard(trained).judge([p.conversation for p in PAIRS])
    assert [v.p_safe < 0.5 for v in verdicts if v.p_safe is not None] == [p.unsafe for p in PAIRS]
    assert all(set(v.categories) == {"harmful_prompt", "refusal"} for v in verdicts)


def test_what_is_said_of_the_prompt_is_the_same_beside_every_response(trained: Path) -> None:
    verdicts = MiniGuard(trained).judge([p.conversation for p in PAIRS[:4]])
    of_prompt = [v.categories["harmful_prompt"] for v in verdicts]
    assert max(of_prompt) - min(of_prompt) < 0.01
    of_response = [v.categories["refusal"] for v in verdicts]
    assert max(of_response) - min(of_response) > 0.5


def test_an_average_adds_the_mean_of_what_each_member_adds(backbone: Path, settings: MiniTraining) -> None:
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = _adapted(backbone, settings)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.2)
        members.append(_shipped_tensors(network))
    loaded = [load_network(backbone, t, 2.0, settings.hidden).float() for t in (*members, average(members))]
    first, second, both = (dict(network.named_parameters()) for network in loaded)
    for name, parameter in both.items():
        assert torch.allclose(parameter, (first[name] + second[name]) / 2, atol=2e-2), name
    assert any(not torch.allclose(p, second[n], atol=0.2) for n, p in first.items())


def test_weights_of_another_network_are_refused(tmp_path: Path, trained: Path) -> None:
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = {n: t for n, t in load_file(trained / "mini.safetensors").items() if not n.startswith("prompt_head")}
    save_file(tensors, tmp_path / "mini.safetensors")
    config = json.loads((tmp_path / "mini.json").read_text())
    config["config"]["weights_sha256"] = hashlib.sha256((tmp_path / "mini.safetensors").read_bytes()).hexdigest()
    (tmp_path / "mini.json").write_text(json.dumps(config))
    with pytest.raises(CompatibilityError, match="train the guard again"):
        MiniGuard(tmp_path)


def test_same_settings_same_weights(tmp_path: Path, settings: MiniTraining) -> None:
    short = replace(settings, epochs=2)
    for name in ("a", "b"):
        train_on_pairs(tmp_path / name, PAIRS, PAIRS, short, "mini")
    first, second = (load_file(tmp_path / name / "mini.safetensors") for name in ("a", "b"))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_merged_guard_agrees_with_the_adapted_network(tmp_path: Path, backbone: Path, settings: MiniTraining) -> None:
    torch.manual_seed(0)
    network = _adapted(backbone, settings).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    report = train_on_pairs(tmp_path, PAIRS, PAIRS, replace(settings, epochs=3), "mini")
    assert report["validation_pairs"] == len(PAIRS)
    guard = MiniGuard(tmp_path)
    tensors = _shipped_tensors(network)
    assert all(t.dtype == torch.float16 for t in tensors.values())
    merged = load_network(backbone, tensors, 2.0, settings.hidden)
    merged.encoder.float()
    encoder = PairEncoder(backbone, settings.max_tokens)
    texts = [(p.prompt, p.response) for p in PAIRS]
    expected = head_logits(network, encoder, texts)
    assert torch.allclose(head_logits(merged, encoder, texts), expected, atol=2e-2)
    assert guard.num_parameters == sum(p.numel() for p in merged.parameters())


def test_one_class_is_an_error(tmp_path: Path, settings: MiniTraining) -> None:
    with pytest.raises(DataError, match="one class"):
        train_on_pairs(tmp_path, [p for p in PAIRS if not p.unsafe], PAIRS, settings, "mini")


def test_truncation_is_explicit_and_keeps_the_beginnings(trained: Path, backbone: Path) -> None:
    encoder = PairEncoder(backbone, 16)
    pair = encoder.encode("bomb " * 30, "cake " * 30)
    assert (len(pair.ids), pair.response_cut, sum(pair.in_response)) == (16, 30 - 7, 8)
    assert encoder.encode("how to make a bomb", "mix it").response_cut == 0
    assert len(encoder.encode("bomb " * 12, "mix").ids) == 16
    asked = Conversation.from_prompt("how to make a bomb")
    long, short = asked.with_response("mix it " * 100), asked.with_response("mix it")
    assert [v.truncated for v in MiniGuard(trained).judge([long, short])] == [True, False]


def test_padding_does_not_change_a_verdict(trained: Path) -> None:
    guard = MiniGuard(trained)
    conversations = [p.conversation for p in PAIRS] + [Conversation.from_prompt("bomb " * 20).with_response("it " * 20)]
    together = guard.judge(conversations)
    alone = [guard.judge([c])[0] for c in conversations]
    assert [v.p_safe for v in together] == pytest.approx([v.p_safe for v in alone], abs=2e-5)


def test_collate_marks_padding_and_response(backbone: Path) -> None:
    encoder = PairEncoder(backbone, 16)
    ids, mask, response = collate([encoder.encode("bomb", "mix it"), encoder.encode("a", "it")], encoder.pad_id)
    assert ids.shape == (2, 6)
    assert mask.sum(1).tolist() == [6, 5]
    assert response.sum(1).tolist() == [3, 2]


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b"x"), lambda f: f.unlink()])
def test_damaged_weights_are_an_error(tmp_path: Path, settings: MiniTraining, damage: Callable[[Path], object]) -> None:
    train_on_pairs(tmp_path, PAIRS, PAIRS, replace(settings, epochs=1), "mini")
    damage(tmp_path / "mini.safetensors")
    with pytest.raises(SourceError, match="sha256"):
        MiniGuard(tmp_path)


def test_a_folder_without_a_guard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="guard train"):
        MiniGuard(tmp_path)


def test_calibration_recovers_temperature_and_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(20000, generator=generator)
    unsafe = (torch.rand(20000, generator=generator) < torch.sigmoid(z / 2 - 0.5)).tolist()
    assert calibrate(z.tolist(), unsafe) == pytest.approx((2.0, -0.5), abs=0.1)


def test_the_three_heads_decide_together() -> None:
    """log-odds of unsafe plus those of p(harmful) p(no refusal), finite where either is all but certain."""
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0], [0.0, 60.0, -60.0], [0.0, -60.0, 60.0]], dtype=torch.float64)
    served = logits[:2, 1].sigmoid() * (-logits[:2, 2]).sigmoid()
    found = unsafe_log_odds(logits)
    assert torch.allclose(found[:2], FIRST_HEAD * logits[:2, 0] + torch.logit(served))
    assert torch.isfinite(found).all()
    assert found[2] > 15 > -15 > found[3]
