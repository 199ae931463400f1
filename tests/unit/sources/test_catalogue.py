from collections import Counter

import pytest

from softguard.sources import list_catalogue
from softguard.sources.catalogue import find_entry
from softguard.sources.references import parse_wheel

ENTRIES = list_catalogue()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_entry_is_pinned(entry) -> None:
    assert len(entry.sha256) == 64
    assert int(entry.sha256, 16)
    assert entry.size_bytes > (1_000_000 if entry.role != "data" else 0)
    assert entry.licence
    assert entry.description
    assert entry.file == entry.file.strip("/")
    assert "/" not in entry.file
    assert entry.is_folder or entry.file.endswith(".gguf")
    assert entry.role in ("model", "guard-backbone", "runtime", "data")
    assert bool(entry.members) == (entry.role in ("runtime", "data"))
    assert entry.chat_template in (None, "from model")
    for piece in entry.pieces:
        parse_wheel(piece)


def test_names_are_unique_and_each_role_has_one_default() -> None:
    assert len({e.name for e in ENTRIES}) == len({e.sha256 for e in ENTRIES}) == len(ENTRIES)
    assert Counter(e.role for e in ENTRIES if e.default) == {"model": 1, "guard-backbone": 1}


def test_the_pin_holds_for_the_long_reference_too() -> None:
    entry = next(e for e in ENTRIES if e.name == "smollm2-135m")
    assert find_entry(entry.pieces[0]) is entry
    assert find_entry("absent") is None
