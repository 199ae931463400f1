"""docs/architectures.md says of each class which tests hold it, and no more."""

import re

from tests.contracts.test_adapters import KINDS
from tests.docs.test_docs import ROOT
from tests.fakes import tiny_model
from tests.unit.models.test_families import FAMILIES
from tests.unit.models.test_windows import WINDOWED

ROWS = re.findall(
    r"^\| ([^|]+) \| `(\w+)` \| ([^|]+) \|", (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8"), re.MULTILINE
)


def test_the_table_names_the_tests_that_build_each_class():
    told: dict[str, set[str]] = {}
    for _, name, checks in ROWS:
        for check in checks.split(", "):
            told.setdefault(check, set()).add(name)
    assert told == {
        "families": {type(one.build(300)).__name__ for one in FAMILIES.values()},
        "adapters": {type(tiny_model(kind).network).__name__ for kind in KINDS},
        "windows": {type(tiny_model(kind).network).__name__ for kind in [*WINDOWED, "gpt2"]},
    }
