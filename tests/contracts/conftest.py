"""Which pairs of adapter and architecture run every time: the others come with `make test-all`.

Two architectures meet every adapter (the plain one, also in 4 bits, and one with windows, scaled embeddings and caps); the others
meet one that adds inputs, one whose last input is where the student decides, and one that changes weights.
"""

import pytest

EVERY_TIME, ALWAYS = {"llama", "gemma3", "llama-nf4"}, {"front", "after_header", "lora"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        chosen = getattr(item, "callspec", None)
        if chosen is None or "contracts/test_adapters.py" not in item.nodeid:
            continue
        kind, name = chosen.params.get("kind"), chosen.params.get("name")
        if kind is not None and kind not in EVERY_TIME and name not in ALWAYS:
            item.add_marker(pytest.mark.slow)
