"""The page: self-contained, and in a real browser: by keyboard alone, streaming, on a phone, in light and dark."""

import html
import re
import threading

import httpx
import pytest

from softguard.core import Reply, Verdict
from softguard.serving import Served
from softguard.serving.playground import playground
from tests.unit.serving.chromium import BINARY, Page, browsing
from tests.unit.serving.scripted import FixedGuard, Scripted, serving

MARKUP = "<b>bold</b> & <script>document.title = 'run'</script>"


def systems(gate=None):
    refusal = "Sorry, I cannot help with this matter."
    made = {
        "base": Scripted("base", ["One ", "two ", MARKUP], Reply(f"One two {MARKUP}", -3.25), gate=gate),
        "guarded": Scripted(
            "guarded", ["", "", refusal], Reply(refusal, 2.2, p_safe=0.1, replaced=True, draft="harm"), gate=gate
        ),
        "student": Scripted("student", [refusal], Reply(refusal, 7.5, refused=True), gate=gate),
        "system_prompt": Scripted("system_prompt"),
    }
    for system in made.values():
        system.context = 4096
    return made


def served(gate=None):
    return Served(systems(gate), FixedGuard(Verdict(p_safe=0.875)), {"student": 0.25}, "abc")


def part(page: Page, column: str, which: str) -> str:
    return page.eval(f"document.querySelector('#{column} [data-part={which}]').textContent")


def test_the_page_loads_nothing_and_says_so():
    page, policy = playground(served(), needs_key=False, longest=64)
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert not re.search(r"(?:src|href)=\"(?!data:,)", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert [re.search(r'id="base-title">(.*?)<', page)[1], page.count("<section")] == ["Base model", 3]
    assert 'max="64" value="64"' in page
    assert "password" not in page
    labelled = set(re.findall(r'<label for="(\w+)"', page))
    assert labelled == set(re.findall(r'<(?:input|textarea) id="(\w+)"', page))


def test_what_is_not_served_has_no_column_and_names_are_text():
    guard = FixedGuard(Verdict(p_safe=1.0))
    guard.name = "<i>guard</i>"
    page, _ = playground(Served({"base": Scripted("base")}, guard), needs_key=True, longest=512)
    assert page.count("<section") == 1
    assert "<i>guard" not in page
    assert html.escape(guard.name) in page
    assert 'id="key"' in page
    assert "No guard is loaded" in playground(Served({"base": Scripted("base")}), needs_key=False, longest=9)[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if BINARY is None:
        pytest.skip("no Chromium on this machine")
    with browsing(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def ask(page: Page, question: str) -> None:
    """Ask by keyboard alone."""
    page.press("Tab")
    assert page.eval("document.activeElement.id") == "question"
    page.type(question)
    page.press("Enter", ctrl=True)


def finished(page: Page) -> None:
    page.until("document.querySelectorAll('[aria-busy]').length === 0 && !document.getElementById('ask').disabled")


def test_three_answers_by_keyboard_with_their_figures(page):
    with serving(served()) as url:
        page.open(url)
        page.complaints.clear()
        ask(page, "how?")
        finished(page)
        shown = {c: {w: part(page, c, w) for w in ("state", "answer", "first", "rate", "score", "odds")} for c in systems()
                 if c != "system_prompt"}  # fmt: skip
        assert page.eval("document.title") == "softguard playground"
    assert page.complaints == []
    base, guarded, student = shown["base"], shown["guarded"], shown["student"]
    assert base["answer"] == f"One two {MARKUP}"  # as text
    assert (base["state"], base["score"], base["odds"]) == ("Answered", "0.875", "−3.25")
    assert (guarded["state"], guarded["score"], guarded["odds"]) == ("Draft withheld by the guard", "0.100", "–")
    assert (student["state"], student["score"], student["odds"]) == ("Refused", "0.875", "7.50, refuses above 0.25")
    assert all(re.fullmatch(r"\d+ ms|\d+\.\d\d s", column["first"]) for column in shown.values())
    assert all(float(column["rate"]) > 0 for column in shown.values())
    status = page.eval("document.getElementById('status').textContent")
    assert status == "Base model: answered. Guarded system: draft withheld by the guard. Student: refused."
    assert page.eval("document.activeElement.id") == "question"


def test_text_shows_as_it_is_made_and_escape_stops(page):
    gate = threading.Semaphore(0)
    given = served(gate)
    with serving(given) as url:
        page.open(url)
        ask(page, "how?")
        page.until("document.querySelector('#guarded [data-part=state]').textContent.startsWith('Drafting')")
        gate.release(4)
        page.until("document.querySelector('#base [data-part=answer]').textContent.startsWith('One ')")
        assert part(page, "base", "state") == "Answering"
        assert part(page, "base", "first") == "–"
        assert page.eval("document.getElementById('stop').disabled") is False
        page.press("Escape")
        finished(page)
        assert part(page, "base", "state") == "Stopped"
        gate.release(50)
        page.until(f"fetch('{url}/health').then(r => r.json()).then(h => h.open_requests === 0)")
    assert given.systems["base"].passes < 3 or given.systems["base"].left == 1


def test_errors_stand_in_their_column_and_the_key_is_sent(page):
    with serving(served(), api_key="open sesame") as url:
        page.open(url)
        page.press("Tab")
        page.type("how?")
        page.press("Tab")
        page.press("Tab")
        assert page.eval("document.activeElement.id") == "key"
        page.type("wrong")
        page.press("Enter")
        finished(page)
        assert part(page, "student", "state").startswith("Error: expected Authorization")
        page.eval("document.getElementById('key').value = ''; document.getElementById('key').focus()")
        page.type("open sesame")
        page.press("Enter")
        finished(page)
        assert part(page, "student", "state") == "Refused"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_and_can_be_read(page, width, dark, tmp_path):
    with serving(served()) as url:
        page.open(url, width=width, height=800, dark=dark)
        ask(page, "how?")
        finished(page)
        assert page.eval("document.documentElement.scrollWidth") <= width
        tops = page.eval("['base', 'guarded', 'student'].map((id) => document.getElementById(id).getBoundingClientRect().top)")
        assert (len(set(tops)) == 1) == (width == 1280)
        assert tops == sorted(tops)
        assert page.eval("Math.min(...[...document.querySelectorAll('button')].map((b) => b.offsetHeight))") >= 44
        ratios = page.eval(CONTRAST)
    assert len(ratios) > 20
    assert min(ratios.values()) >= 4.5, ratios


CONTRAST = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => {
      const x = v / 255;
      return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = {};
  for (const e of document.querySelectorAll('main *')) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || e.disabled || !e.offsetParent) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    found[`${Object.keys(found).length} ${e.tagName} ${e.textContent.slice(0, 20)}`] = (a + 0.05) / (b + 0.05);
  }
  return found;
})()"""


def test_the_servers_headers_hold_the_page(page):
    with serving(served()) as url:
        headers = httpx.get(url).headers
        page.open(url)
        page.complaints.clear()
        page.eval(
            "document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x\" onerror=\"document.title = 1\">')"
        )
        page.until("true")
        assert page.eval("document.title") == "softguard playground"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
