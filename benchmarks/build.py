"""Compiles the mock engine and the load generator: `python -m benchmarks.build [--folder DIR]`.

A program is compiled again only when a source is newer than it. Tests use `compile_mock` and `compile_load` as well.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
CACHE = SOURCES / "build"
_FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra")
_COMPILE_SECONDS_MAX = 120


class BuildError(Exception):
    """The programs cannot be compiled; the message says why in one sentence."""


def compile_mock(folder: Path = CACHE) -> Path:
    """Return the path of the mock engine, compiled into `folder`.

    Raises:
        BuildError: no compiler, not Linux, or the compiler refused.
    """
    return _compile("mock_upstream", "mock_*", folder)


def compile_load(folder: Path = CACHE) -> Path:
    """Return the path of the load generator, compiled into `folder`.

    Raises:
        BuildError: as `compile_mock`.
    """
    return _compile("load", "load*", folder)


def _compile(name: str, pattern: str, folder: Path) -> Path:
    sources = sorted(SOURCES.glob(f"{pattern}.c"))
    target = folder / name
    newest = max(path.stat().st_mtime_ns for path in SOURCES.glob(f"{pattern}.[ch]"))
    if target.exists() and target.stat().st_mtime_ns >= newest:
        return target
    if sys.platform != "linux":
        raise BuildError("the mock engine and the load generator need Linux (epoll)")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BuildError("there is no C compiler; on Debian or Ubuntu: sudo apt-get install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    # Under a name of its own first: two runs at once must not see half a program.
    draft = folder / f"{name}.{os.getpid()}"
    command = [compiler, *_FLAGS, "-o", str(draft), *map(str, sources)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS_MAX, check=False)
    if result.returncode != 0:
        raise BuildError(f"{name} does not compile: {result.stderr.strip()[:2000]}")
    draft.replace(target)
    return target


def main() -> int:
    """Compile both and print where they are."""
    parser = argparse.ArgumentParser(description="Compile the mock engine and the load generator.")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where the programs go")
    folder = parser.parse_args().folder
    try:
        print(compile_mock(folder))
        print(compile_load(folder))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
