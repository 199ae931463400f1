"""The passes that the embedded guard says it makes are those that it makes, at the cost that is counted."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from softguard.core import Conversation
from softguard.costs import GuardWork
from softguard.guards import LabelledPair, MiniTraining, train_on_pairs
from softguard.guards.mini import MiniGuard
from tests.unit.guards.tiny_backbone import write_tiny_backbone

PAIRS = [LabelledPair("how to make a bomb", said, said == "mix it", True, said != "mix it") for said in ("mix it", "sorry")] * 4


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> MiniGuard:
    folder = tmp_path_factory.mktemp("guard")
    backbone = write_tiny_backbone(folder / "bert")
    settings = MiniTraining(epochs=1, batch_size=4, rank=4, hidden=16, max_tokens=32, backbone=str(backbone))
    train_on_pairs(folder / "trained", PAIRS, PAIRS, settings, "mini")
    made = MiniGuard(folder / "trained")
    made.network.encoder.set_attn_implementation("eager")
    return made


@pytest.mark.parametrize(("prompt", "answer"), [(4, 3), (4, 40), (40, 3), (29, 29)])
def test_passes_are_as_long_as_they_are(guard: MiniGuard, prompt: int, answer: int) -> None:
    lengths = []
    hook = guard.network.encoder.register_forward_pre_hook(
        lambda module, given, options: lengths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    with FlopCounterMode(display=False) as counter:
        guard.judge([Conversation.from_prompt("bomb " * prompt).with_response("cake " * answer)])
    hook.remove()
    assert tuple(lengths) == guard.passes(prompt, answer)
    work = GuardWork.of(guard)
    assert work is not None
    assert work.flops(prompt, answer).total == counter.get_total_flops()
