"""Our own Python files, read and parsed once for all tidy tests."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tokenworks"
_TEXTS = {".c", ".cfg", ".ini", ".mako", ".md", ".py", ".sh", ".sql", ".svg", ".toml", ".txt", ".yaml", ".yml"}
_NAMELESS = {"Makefile", "run", "install", ".gitignore"}
_NOT_OURS = {
    ".import_linter_cache",
    "tokenworks.egg-info",
    ".git",
    ".venv",
    ".cache",
    "__pycache__",
    "build",
    "dist",
    "results",
    ".hypothesis",
    "LICENSE",
    "shared",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: Path

    @property
    def name(self) -> str:
        """Path from the root of the checkout, with slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """Line and text of each comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    def at(self, line: int) -> str:
        """`file:line`, as editors and people find it."""
        return f"{self.name}:{line}"


@cache
def python_files(*folders: str) -> tuple[Source, ...]:
    """The Python files under these folders of the checkout, in order."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(Source(path) for path in sorted(found) if not _NOT_OURS & set(path.relative_to(ROOT).parts))


@cache
def text_files() -> tuple[Path, ...]:
    """Every text file of the project, code and docs."""
    found = (path for path in ROOT.rglob("*") if not _NOT_OURS & set(path.relative_to(ROOT).parts))
    return tuple(sorted(p for p in found if p.is_file() and (p.suffix in _TEXTS or p.name in _NAMELESS)))


def package() -> tuple[Source, ...]:
    """The files that users get."""
    return python_files("src")


def everything() -> tuple[Source, ...]:
    """All our Python files."""
    return python_files("src", "tests", "benchmarks")


def slice_of(source: Source) -> str:
    """The first-level folder of a file in the package."""
    parts = source.path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def has_reason(comment: str, rule: str) -> bool:
    """Whether the comment says more after the part that matches `rule`."""
    found = re.search(rule, comment)
    rest = comment[found.end() :] if found else ""
    return len(re.findall(r"[A-Za-z]{2,}", rest)) >= 2
