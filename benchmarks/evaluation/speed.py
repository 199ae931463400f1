"""How long one student's evaluation takes from an empty cache: 1,000 prompts of 64 new tokens, and the small usefulness suite.

python -m benchmarks.evaluation.speed --data-dir ../shared/data [--run benchmarks/reference] [--only prompts,usefulness]

Answers and verdicts go to a cache of their own, which begins with the weights that are there and nothing else. Loading is within
the time. `speed.json` has the seconds of this machine beside the limits that we set ourselves for two cores.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from softguard.core.files import write_atomically
from softguard.models import processor_name
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites
from softguard.sources import cache_dir

HERE = Path(__file__).parent
WEIGHTS = ("sources", "judges", "machine")
"""What the cache may hold when the clock starts."""
ASKED = {
    "prompts": SuiteRequest(
        "advbench,do_not_answer,beavertails_safe,alpaca",
        judges="reference,mini",
        systems="student",
        limit=250,
        max_new_tokens=64,
    ),
    "usefulness": SuiteRequest("usefulness", systems="student"),
}
LIMIT_S = {"prompts": 360, "usefulness": 1200}


def timed(run: Path, request: SuiteRequest, data_dir: Path) -> dict[str, object]:
    """Return the seconds, and how many prompts of which suites were answered."""
    with tempfile.TemporaryDirectory() as folder:
        copy, cache = Path(folder) / "run", Path(folder) / "cache"
        shutil.copytree(run, copy)
        cache.mkdir()
        for name in WEIGHTS:
            if (cache_dir() / name).exists():
                (cache / name).symlink_to(cache_dir() / name)
        before = os.environ.get("SOFTGUARD_CACHE")
        os.environ["SOFTGUARD_CACHE"] = str(cache)
        try:
            started = time.monotonic()
            summaries = evaluate_suites(copy, request, data_dir, lambda *_: None)
            seconds = time.monotonic() - started
        finally:
            os.environ.pop("SOFTGUARD_CACHE")
            if before is not None:
                os.environ["SOFTGUARD_CACHE"] = before
    asked = {s.suite: sum(s.provenance["asked"]["prompts"].values()) for s in summaries}
    return {"seconds": round(seconds, 1), "prompts": sum(asked.values()), "suites": asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of public sets")
    parser.add_argument("--run", type=Path, default=HERE.parent / "reference", help="whose student is evaluated")
    parser.add_argument("--only", default=",".join(ASKED), help=f"of {', '.join(ASKED)}, by comma")
    parser.add_argument("--out", type=Path, default=HERE / "speed.json")
    given = parser.parse_args()
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name in given.only.split(","):
        found = timed(given.run, ASKED[name], given.data_dir)
        made_by = {"processor": processor_name(), "cores": os.cpu_count(), **{p: version(p) for p in ("softguard", "torch")}}
        known[name] = found | {"limit_seconds": LIMIT_S[name], "made_by": made_by}
        write_atomically(given.out, json.dumps(known, indent=1) + "\n")
        print(json.dumps({name: known[name]}), flush=True)


if __name__ == "__main__":
    main()
