"""Names, and the ones near a wrong one."""

import difflib
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from odradek.protocol.errors import InvalidTopicError
from odradek.protocol.names import begin_request, check_topic_name, near_names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".", "'.' is reserved"),
        ("..", "'..' is reserved"),
        ("", "use letters, digits, '.', '_' and '-'"),
        ("a/b", "use letters, digits, '.', '_' and '-'"),
        ("x" * 250, "at most 249"),
    ],
)
def test_an_illegal_topic_name_is_told_why(name: str, told: str) -> None:
    with pytest.raises(InvalidTopicError) as caught:
        check_topic_name(name)
    assert told in caught.value.message
    assert "249" in caught.value.limit


def test_dots_are_legal_in_topic_names() -> None:
    assert [check_topic_name(name) for name in ("...", ".a", "a.b")] == ["...", ".a", "a.b"]


def test_near_names_are_found_among_few_and_among_many() -> None:
    assert near_names("postions", ["positions", "orders"]) == ("positions",)
    many = [f"a-name-that-is-much-longer-{number}" for number in range(5000)]
    assert near_names("postions", [*many, "positions"]) == ("positions",)


def test_the_nearest_of_many_alike_are_found() -> None:
    many = [f"orders-{number:03}" for number in range(250)]
    assert near_names("oders-123", many)[0] == "orders-123"
    assert near_names("tt", [*map(str, range(100, 200)), "t"]) == ("t",)


def test_looking_for_near_names_costs_no_more_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    looked_at = 0

    def compare(_: str, names: list[str], **__: object) -> list[str]:
        compared.extend(names)
        return []

    def known() -> Iterator[str]:
        nonlocal looked_at
        for number in range(5000):
            looked_at += 1
            yield f"orders-{number:05}"

    monkeypatch.setattr(difflib, "get_close_matches", compare)
    near_names("orders-99x99", known())
    assert len(compared) == 6
    assert looked_at <= 301
    near_names("x" * 101, ["x" * 100])
    assert len(compared) == 6


def test_a_request_looks_for_near_names_a_few_times_only() -> None:
    def request() -> list[bool]:
        begin_request()
        return [bool(near_names("postions", ["positions"])) for _ in range(100)]

    for _ in range(2):
        assert copy_context().run(request) == [True] * 4 + [False] * 96
    assert all(near_names("postions", ["positions"]) for _ in range(100))
