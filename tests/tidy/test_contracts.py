"""The import contracts of pyproject.toml cover what exists, and nothing is excepted from them."""

import re
import tomllib
from typing import Any

from tests.tidy.sources import PACKAGE, ROOT, Source, package

PRIVATE = ("api", "store", "tasks")
SLICE_FILES = {"api", "tasks", "service", "store", "wire", "policy", "ports", "model"}
PURE = ("model", "policy")


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def slices() -> set[str]:
    """Folders that stand inside by the files of a slice: at least a model or a service."""
    return {source.path.parent.name for source in package() if source.path.stem in {"model", "service"}}


def module_of(source: Source) -> str:
    """Dotted name of a file of the package."""
    return "tokenworks." + source.path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


def test_no_import_is_excepted() -> None:
    assert not [contract["id"] for contract in contracts() if "ignore_imports" in contract]


def test_every_slice_is_ordered_inside() -> None:
    ordered = next(contract for contract in contracts() if contract["id"] == "slices")
    assert {name.removeprefix("tokenworks.") for name in ordered["containers"]} == slices()


def test_every_private_module_is_protected() -> None:
    protected = {name for contract in contracts() for name in contract.get("protected_modules", ())}
    private = {
        f"tokenworks.{folder}.{name}"
        for folder in slices()
        for name in PRIVATE
        if (PACKAGE / folder / f"{name}.py").exists() or (PACKAGE / folder / name).is_dir()
    }
    assert private <= protected


def test_pure_files_are_kept_pure() -> None:
    pure = next(contract for contract in contracts() if contract["id"] == "pure")
    said_pure = {
        module_of(source)
        for source in package()
        if source.path.stem not in PURE and source.text.split('"""')[1].strip().endswith(("Pure.", "pure."))
    }
    assert said_pure <= set(pure["source_modules"])


def test_pure_files_take_only_names_from_http() -> None:
    """import-linter sees outside packages whole; `http.HTTPStatus` is a name, `http.client` is I/O."""
    pure = next(contract for contract in contracts() if contract["id"] == "pure")
    names = {*pure["source_modules"], *(f"tokenworks.{folder}.{name}" for folder in slices() for name in PURE)}
    files = [source for source in package() if module_of(source) in names]
    assert len(files) > len(slices())
    assert not [source.name for source in files if re.search(r"^(from|import) http\.", source.text, re.MULTILINE)]
