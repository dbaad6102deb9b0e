"""Usage and money are integers: where they are counted, no float is written, named or made by a division."""

import ast

import pytest

from tests.tidy.sources import Source, package, slice_of

_COUNTING = {"metering", "ledger", "billing"}
COUNTING_FILE = pytest.mark.parametrize(
    "source", [source for source in package() if slice_of(source) in _COUNTING], ids=lambda source: source.name
)


@COUNTING_FILE
def test_no_floats(source: Source) -> None:
    found = [f"{source.at(line)} {what}" for line, what in sorted(floats(source.tree))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code", ["x = 0.5", "x = 1e9", "x: float = 1", "x = float(y)", "x = a / b", "x /= b", "x: Float", "x = 2j"]
)
def test_floats_are_found(code: str) -> None:
    assert floats(ast.parse(code))


@pytest.mark.parametrize("code", ["x = 5 // 2", "x: int = 1", 'x = "0.5"', "x = timeout_ms", "p = folder.joinpath(a)"])
def test_integers_pass(code: str) -> None:
    assert not floats(ast.parse(code))


def floats(tree: ast.Module) -> set[tuple[int, str]]:
    """Line and kind of each float. A path is joined by `/` with a text, which is no division."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float() | complex()):
                found.add((node.lineno, f"the literal {node.value!r}"))
            case ast.Name(id="float" | "Float" | "REAL" | "Double"):
                found.add((node.lineno, f"the type {node.id}"))
            case ast.AugAssign(op=ast.Div()):
                found.add((node.lineno, "a division"))
            case ast.BinOp(op=ast.Div()) if not _is_path(node):
                found.add((node.lineno, "a division"))
    return found


def _is_path(node: ast.BinOp) -> bool:
    sides = [node.right, node.left]
    if any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in sides
    ):
        return True
    words = ("path", "folder", "dir", "home", "root", "archive")
    return any(word in ast.unparse(node.left).lower() for word in words)
