"""Who leaves a rule says which and why; who catches everything says why; nothing is switched off for a whole file."""

import ast
import re

import pytest

from tests.tidy.sources import Source, everything, has_reason, package

EVERY_FILE = pytest.mark.parametrize("source", everything(), ids=lambda source: source.name)
PACKAGE_FILE = pytest.mark.parametrize("source", package(), ids=lambda source: source.name)

_NOQA = r"#\s*noqa:\s*[A-Z]+[0-9]+(\s*,\s*[A-Z]+[0-9]+)*"
_IGNORE = r"#\s*type:\s*ignore\[[a-z0-9-]+(\s*,\s*[a-z0-9-]+)*\]"
_PRAGMA = r"#\s*pragma:\s*no (cover|branch)"
_WHOLE_FILE = re.compile(r"#\s*(ruff:\s*noqa|flake8|mypy:|pylint:)")
_WIDE = {"Exception", "BaseException"}


@EVERY_FILE
def test_each_exception_names_its_rule_and_reason(source: Source) -> None:
    bare = [
        f"{source.at(line)} {comment}"
        for line, comment in source.comments
        for word, rule in (("noqa", _NOQA), ("type: ignore", _IGNORE), ("pragma: no", _PRAGMA))
        if re.search(rf"#\s*{word}", comment) and not has_reason(comment, rule)
    ]
    assert not bare, "write `# noqa: RULE - the reason`:\n" + "\n".join(bare)


@EVERY_FILE
def test_no_rule_is_off_for_a_file(source: Source) -> None:
    found = [f"{source.at(line)} {comment}" for line, comment in source.comments if _WHOLE_FILE.search(comment)]
    assert not found, "\n".join(found)


@PACKAGE_FILE
def test_catching_everything_has_a_reason(source: Source) -> None:
    """A handler that raises again needs none: nothing is lost there."""
    reasoned = {line for line, comment in source.comments if len(re.findall(r"[A-Za-z]{2,}", comment)) >= 3}
    silent = [
        source.at(node.lineno)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and _is_wide(node)
        and not _raises(node)
        and not reasoned & {node.lineno - 1, node.lineno, node.lineno + 1}
    ]
    assert not silent, "say why everything is caught:\n" + "\n".join(silent)


def _is_wide(node: ast.ExceptHandler) -> bool:
    if node.type is None:
        return True
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(ast.unparse(kind) in _WIDE for kind in kinds)


def _raises(node: ast.ExceptHandler) -> bool:
    return isinstance(node.body[-1], ast.Raise)
