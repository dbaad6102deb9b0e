"""Each module says what it is for; each public class and function says what comes back.

A method that fills a port or a framework's callback repeats nothing: its text stands where it is declared.
"""

import ast
import asyncio
import logging

import pytest

from tests.tidy.sources import Function, Source, everything, package

EVERY_FILE = pytest.mark.parametrize("source", everything(), ids=lambda source: source.name)
PACKAGE_FILE = pytest.mark.parametrize("source", package(), ids=lambda source: source.name)

_HTTPTOOLS = {
    "on_body",
    "on_chunk_complete",
    "on_chunk_header",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_status",
    "on_url",
}
_PROTOCOLS = (asyncio.Protocol, asyncio.BufferedProtocol, logging.Formatter)
_FRAMEWORK = _HTTPTOOLS | {"settings_customise_sources"} | {name for base in _PROTOCOLS for name in dir(base)}
"""Callbacks that asyncio, logging, httptools and pydantic-settings declare."""


@EVERY_FILE
def test_module_has_docstring(source: Source) -> None:
    if source.path.name != "__init__.py" or source.text.strip():
        assert (ast.get_docstring(source.tree) or "").strip(), f"{source.name}: say what it is for"


@PACKAGE_FILE
def test_init_holds_only_a_docstring(source: Source) -> None:
    if source.path.name != "__init__.py":
        return
    allowed = {"__version__"}
    body = source.tree.body[1:]
    others = [n for n in body if not (isinstance(n, ast.Assign) and {ast.unparse(t) for t in n.targets} <= allowed)]
    assert ast.get_docstring(source.tree), f"{source.name}: tell the slice's tour in one paragraph"
    assert not others, f"{source.at(others[0].lineno)}: __init__ holds a docstring only"


@PACKAGE_FILE
def test_public_things_have_docstrings(source: Source) -> None:
    documented = _FRAMEWORK | _declared()
    silent = [
        f"{source.at(node.lineno)} {node.name}"
        for node in _public(source.tree)
        if not ast.get_docstring(node) and node.name not in documented
    ]
    assert not silent, "\n".join(silent)


def _public(tree: ast.Module | ast.ClassDef) -> list[Function | ast.ClassDef]:
    found: list[Function | ast.ClassDef] = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        found.append(node)
        if isinstance(node, ast.ClassDef):
            found += _public(node)
    return found


def _declared() -> set[str]:
    """Names of methods that a Protocol of ours documents."""
    return {
        method.name
        for source in package()
        for port in source.classes
        if any(ast.unparse(base).startswith("Protocol") for base in port.bases)
        for method in port.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    }
