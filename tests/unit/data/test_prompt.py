"""Rows about minors are known by their words."""

import pytest

from softguard.data import mentions_minors


@pytest.mark.parametrize(
    "text",
    [
        "two 14-year-olds",
        "a group of 9 year olds",
        "someone 13yo",
        "someone 13 y/o",
        "a fifteen-year-old",
        "a 15 yr old",
        "someone aged 12",
        "at age 14",
        "an underaged person",
        "under-age drinkers",
        "anyone under 18",
        "a young girl",
        "the Boys",
        "high school girls",
        "a high-school dance",
        "an elementary class",
        "middle schoolers",
        "a kindergartner",
        "a daycare",
        "adolescents",
        "the youth of a town",
        "a babysitter",
        "a teenaged cousin",
        "pre-teens",
        "tweens",
        "a newborn",
        "childhood photos",
        "loli art",
        "Schoolchildren",
        "a minor",
    ],
)
def test_words_for_minors(text: str) -> None:
    assert mentions_minors(text)


@pytest.mark.parametrize(
    "text",
    [
        "the new girl at the office",
        "my boys at the depot",
        "a girlfriend and a cowboy",
        "a hundred-year-old house",
        "the clip is years old",
        "within the age of steam",
        "kidnap a manager",
        "the page 14 of a book",
        "a minority",
        "higher school fees",
    ],
)
def test_other_words(text: str) -> None:
    assert not mentions_minors(text)
