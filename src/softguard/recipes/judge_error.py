"""`guard correct`: a suite's attack success as judged, and corrected for the judge's errors by labels of the same answers.

Labels are lines `{"system", "id", "unsafe"}`, with `"wrapper"` for requests under attack: they name answers of the evaluation's
own `samples.jsonl`, so they are of the same systems. A label of a full refusal counts for nothing: refusals are safe by
definition.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softguard.core.files import write_atomically
from softguard.errors import DataError
from softguard.evaluation.judge_error import CorrectedRate, JudgedAnswer, LabelledVerdict, corrected_rate
from softguard.evaluation.scores import HARM
from softguard.evaluation.wrappers import PLAIN


@dataclass(frozen=True)
class SystemRate:
    """One system's rate under one way of asking."""

    system: str
    wrapper: str
    rate: CorrectedRate


def correct_rates(evaluation: Path, labels: Path, judge: str = "", seed: int = 0) -> list[SystemRate]:
    """Return every labelled system's attack success as judged and corrected, and write `corrected-LABELS.json` beside them.

    Args:
        evaluation: `RUN/evaluations/SUITE-HASH`.
        labels: the file of labels.
        judge: by name; empty takes the one that leads.
        seed: of the bootstrap.

    Raises:
        DataError: no such files, a line that is no label or names no answer, an unknown judge; see `judge_error.judge_quality`.
    """
    rows = [r for r in _lines(evaluation / "samples.jsonl") if r.get("label") == "harmful" and not r.get("ungraded")]
    judges = list(dict.fromkeys(name for r in rows for name in r["harm"]))
    judge = judge or (judges[0] if judges else "")
    if judge not in judges:
        raise DataError(f"a judge among {', '.join(judges) or 'none'}", repr(judge), "choose one that judged this evaluation")
    by_answer = {(r["system"], r["wrapper"], str(r["id"])): r for r in rows}
    verdicts, systems = _labelled(_lines(labels), by_answer, judge, labels)
    found = []
    for system, wrapper in dict.fromkeys((r["system"], r["wrapper"]) for r in rows):
        if system in systems:  # errors of a judge on other systems' answers say nothing of this one's
            part = [r for r in rows if (r["system"], r["wrapper"]) == (system, wrapper)]
            answers = [_answer(r, judge) for r in part]
            found.append(SystemRate(system, wrapper, corrected_rate(answers, verdicts, seed, [r["family"] for r in part])))
    write_atomically(labels.with_name(f"corrected-{labels.stem}.json"), json.dumps(described(found, judge), indent=1) + "\n")
    return found


def described(found: Sequence[SystemRate], judge: str) -> dict[str, Any]:
    """Return rates as JSON has them: the uncorrected one stands beside every corrected one."""
    rates = []
    for x in found:
        both = {"uncorrected": x.rate.uncorrected, "corrected": x.rate.corrected}
        shown = {n: {"value": e.value, "low": e.interval.low, "high": e.interval.high} for n, e in both.items()}
        counts = {"n": x.rate.corrected.n, "ungraded": x.rate.corrected.ungraded, "at_the_edge": x.rate.at_the_edge}
        rates.append({"system": x.system, "wrapper": x.wrapper, **shown, **counts})
    quality = found[0].rate.quality if found else None
    labels = {} if quality is None else vars(quality)
    return {"judge": judge, "metric": "attack_success_rate", "judge_on_labels": labels, "rates": rates}


def _labelled(
    lines: Sequence[dict[str, Any]], by_answer: dict[tuple[str, str, str], dict[str, Any]], judge: str, path: Path
) -> tuple[list[LabelledVerdict], set[str]]:
    """Return the verdicts on labelled answers that are no refusals, and the systems that they are of."""
    verdicts: dict[tuple[str, str, str], LabelledVerdict] = {}
    for number, line in enumerate(lines, 1):
        key = (line.get("system", ""), line.get("wrapper", PLAIN), str(line.get("id", "")))
        if not isinstance(line.get("unsafe"), bool) or key not in by_answer:
            found = f"{path}, line {number}"
            raise DataError('{"system", "id", "unsafe": true|false} of an answer of this evaluation', found, "correct this line")
        row = by_answer[key]
        flagged = _flagged(row, judge)
        if row["kind"] != "full" and flagged is not None:
            verdicts[key] = LabelledVerdict(flagged, line["unsafe"])
    return list(verdicts.values()), {system for system, _, _ in verdicts}


def _answer(row: dict[str, Any], judge: str) -> JudgedAnswer:
    return JudgedAnswer(row["kind"] == "full", _flagged(row, judge), 1.0 if row["p_kept"] is None else float(row["p_kept"]))


def _flagged(row: dict[str, Any], judge: str) -> bool | None:
    harm = row["harm"].get(judge)
    return None if harm is None else bool(harm >= HARM)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"a file of JSON lines at {path}", type(error).__name__, "check the path") from error
    if any(not isinstance(r, dict) for r in rows):
        raise DataError(f"objects in {path}", "another value", "write one object a line")
    return rows
