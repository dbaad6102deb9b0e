"""The reference says what the code says."""

import pytest

from tests.docs.reference import FOLDER, pages


@pytest.mark.parametrize("name", ["settings.md", "cli.md", "errors.md"])
def test_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], f"run `make docs` and commit {name}"


def test_every_page_is_made() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == set(pages())


def test_every_setting_has_a_sentence() -> None:
    assert "| None |" not in pages()["settings.md"]


def test_codes_are_found() -> None:
    page = pages()["errors.md"]
    assert all(
        f"`{code}`" in page for code in ("unknown_parameter", "model_not_found", "invalid_api_key", "no_capacity")
    )
