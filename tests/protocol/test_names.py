"""Names, and the ones near a wrong one."""

import difflib

import pytest

from odradek.protocol.names import near_names


def test_near_names_are_found_among_few_and_among_many() -> None:
    assert near_names("postions", ["positions", "orders"]) == ("positions",)
    many = [f"a-name-that-is-much-longer-{number}" for number in range(5000)]
    assert near_names("postions", [*many, "positions"]) == ("positions",)


def test_looking_for_near_names_costs_no_more_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(_: str, names: list[str], **__: object) -> list[str]:
        compared.extend(names)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", compare)
    near_names("orders-99x99", (f"orders-{number:05}" for number in range(5000)))
    near_names("x" * 1_000_000, ["positions"])
    assert len(compared) == 100
