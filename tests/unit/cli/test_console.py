"""Progress without a terminal: nothing is foretold before it can be known."""

import pytest

from softguard.cli import console


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_said_once_it_is_known(clock, capsys):
    stages = console.Stages()
    for seconds, done in ((0, 0), (11, 1), (12, 2), (22, 2), (40, 4)):
        clock[0] = 1000.0 + seconds
        stages("drafts", done, 4, {})
    assert capsys.readouterr().err == "drafts: 0/4\ndrafts: 1/4, 33 s left\ndrafts: 2/4, 22 s left\ndrafts: 4/4\n"


def test_resumed_work_is_not_speed(clock, capsys):
    stages = console.Stages()
    stages("drafts", 90, 100, {})
    clock[0] += 20
    stages("drafts", 95, 100, {"loss": 0.5, "else": 1.0})
    assert capsys.readouterr().err == "drafts: 90/100\ndrafts: 95/100, 20 s left loss 0.5\n"


def test_every_stage_begins_with_a_line(clock, capsys):
    stages = console.Stages()
    stages("one", 0, 9, {})
    clock[0] += 1
    stages("two", 3, 9, {})
    assert capsys.readouterr().err == "one: 0/9\ntwo: 3/9\n"
