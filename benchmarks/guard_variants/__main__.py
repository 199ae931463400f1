"""Train and measure the variants asked for; each is added to `benchmarks/guard/variants.json` and `variants.md` when it is done.

What is there of other variants stays, if it was measured on the same pairs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.guard_variants.own import OWN, Bench
from benchmarks.guard_variants.packaged import PACKAGED, packaged
from benchmarks.guard_variants.pairs import sets_to_measure
from benchmarks.guard_variants.table import write
from benchmarks.guard_variants.variant import measure

OUT = Path(__file__).parent.parent / "guard"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*PACKAGED, *OWN]
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the base model's answers, features and weights")
    parser.add_argument("--only", default=",".join(every), help="some of the variants; by default all: %(default)s")
    parser.add_argument("--limit", type=int, default=250, help="pairs of each set; 0 takes all")
    parser.add_argument("--train", type=int, default=1200)
    parser.add_argument("--validation", type=int, default=250)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of variants.json and variants.md")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",")
    if unknown := set(names) - set(every):
        parser.error(f"--only: no variant {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    sets = sets_to_measure(asked.work, asked.data_dir, asked.limit)
    bench = Bench(asked.data_dir, asked.work, asked.train, asked.validation)
    for name in names:
        print(f"{name}: ", end="", flush=True)
        found = _packaged(name, sets) if name in PACKAGED else measure(OWN[name](bench), sets)
        write(name, found, sets, asked.out)
        print(found.get("not_run") or found["latency_ms_one_thread"], flush=True)


def _packaged(name: str, sets: Any) -> dict[str, Any]:
    try:
        return measure(packaged(name), sets)
    except Exception as error:  # a package may raise anything, at import, at load or at a text
        return {"not_run": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
