"""Time, ids, randomness and settings come from ports: few files ask the machine for them.

Ruff forbids the same by name (`banned-api` in pyproject.toml); here the list of those who may is held in one place, and
leaving it by a `noqa` does not help.
"""

import ast

import pytest

from tests.tidy.sources import PACKAGE, Source, package

PACKAGE_FILE = pytest.mark.parametrize("source", package(), ids=lambda source: source.name)

_MAY_READ_ENVIRONMENT = {"kit/config.py"}
_MAY_ASK_TIME = {"kit/clock.py"}
_MAY_BE_RANDOM = {"kit/ids.py", "accounts/adapters/random_keys.py"}
_MAY_START_PROGRAMS = ("testing/",)

_ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
_TIME_MODULES = {"time"}
_RANDOM_MODULES = {"random", "secrets", "uuid"}
_NOW = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
    "datetime.date.today",
}


@PACKAGE_FILE
def test_environment_is_read_in_config_alone(source: Source) -> None:
    if _name(source) in _MAY_READ_ENVIRONMENT or _name(source).startswith(_MAY_START_PROGRAMS):
        return
    found = [source.at(line) for line, name in _names(source) if name in _ENVIRONMENT]
    found += [source.at(line) for line, module in _imports(source) if module in _ENVIRONMENT]
    assert not found, f"{found}: settings are read in kit/config.py and passed down"


@PACKAGE_FILE
def test_time_comes_from_a_clock(source: Source) -> None:
    if _name(source) in _MAY_ASK_TIME or _name(source).startswith(_MAY_START_PROGRAMS):
        return
    found = [source.at(line) for line, module in _imports(source) if module.split(".")[0] in _TIME_MODULES]
    found += [source.at(line) for line, name in _names(source) if name in _NOW]
    assert not found, f"{found}: take a Clock (kit/clock.py)"


@PACKAGE_FILE
def test_randomness_comes_from_ports(source: Source) -> None:
    if _name(source) in _MAY_BE_RANDOM or _name(source).startswith(_MAY_START_PROGRAMS):
        return
    found = [source.at(line) for line, module in _imports(source) if module.split(".")[0] in _RANDOM_MODULES]
    found += [source.at(line) for line, name in _names(source) if name in {"os.urandom", "numpy.random", "np.random"}]
    assert not found, f"{found}: take Ids (kit/ids.py) or another port"


def _name(source: Source) -> str:
    return source.path.relative_to(PACKAGE).as_posix()


def _names(source: Source) -> list[tuple[int, str]]:
    nodes = (node for node in ast.walk(source.tree) if isinstance(node, ast.Attribute))
    return [(node.lineno, ast.unparse(node)) for node in nodes]


def _imports(source: Source) -> list[tuple[int, str]]:
    """Line and full name of each thing that is imported."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found
