"""Makes docs/reference from the code: settings, commands, errors. `python -m tests.docs.reference` writes the pages."""

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tests.tidy.sources import ROOT, package, slice_of
from tokenworks.cli.main import app
from tokenworks.kit import errors
from tokenworks.kit.config import ClientSettings, Settings

FOLDER = ROOT / "docs" / "reference"
_NOT_SERVED = {"cli", "client", "testing"}
"""Folders whose errors are said on the caller's side only."""
_NOTE = "<!-- Made from the code by `make docs`; edit the code. -->\n\n"


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {
        "settings.md": _NOTE + "\n".join(settings_page()) + "\n",
        "cli.md": _NOTE + "\n".join(cli_page()) + "\n",
        "errors.md": _NOTE + "\n".join(errors_page()) + "\n",
    }


def settings_page() -> Iterator[str]:
    """Each setting with its variable, default and reason."""
    yield "# Settings\n"
    yield "Every setting is an environment variable, or a line in the TOML file of `tokenworks up --config FILE`, where"
    yield "a part, such as `gateway`, is a table. The environment wins over the file.\n"
    yield from _settings_of(Settings, "", "General", "")
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings_of(field.annotation, f"{name}__", f"`[{name}]`", field.annotation.__doc__ or "")
    yield from _settings_of(ClientSettings, "", "Commands", "Read by every command but `up` and `down`.")


def _settings_of(part: type[BaseModel], prefix: str, title: str, text: str) -> Iterator[str]:
    yield f"\n## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| variable | default | what it is |"
    yield "|---|---|---|"
    for name, field in part.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            yield f"| `TOKENWORKS_{(prefix + name).upper()}` | {_default(name, field)} | {field.description} |"


def _default(name: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "the platform's user data folder" if name == "home" else "-"
    return "empty" if field.default == "" else f"`{field.default}`"


def cli_page() -> Iterator[str]:
    """Each command with its arguments and options."""
    yield "# Commands\n"
    yield "`tokenworks` prints tables for people and, with `--json`, one JSON document for programs. A failure is one"
    yield "sentence on stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
    yield from _commands(typer.main.get_command(app), "tokenworks")


def _commands(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        yield f"\n## `{name}`\n"
        yield inspect.cleandoc(command.help or "")
        yield from _parameters(command)
    for child in children.values():
        yield from _commands(child, f"{name} {child.name}")


def _parameters(command: Any) -> Iterator[str]:
    shown = [parameter for parameter in command.params if getattr(parameter, "help", None)]
    if not shown:
        return
    yield "\n| | default | what it is |"
    yield "|---|---|---|"
    for parameter in shown:
        is_option = parameter.param_type_name == "option"
        name = ", ".join(parameter.opts) if is_option else parameter.name.upper()
        is_plain = parameter.default in (None, "", False) or getattr(parameter, "required", False)
        default = "" if is_plain else f"`{parameter.default}`"
        yield f"| `{name}` | {default} | {parameter.help} |"


def errors_page() -> Iterator[str]:
    """Each code that an answer's `error.code` may have."""
    yield "# Errors\n"
    yield "Every error of the HTTP API has OpenAI's shape, and a `code` that does not change:\n"
    example = {"message": "...", "type": "invalid_request_error", "param": "max_tokens", "code": "invalid_value"}
    yield f"```json\n{json.dumps({'error': example})}\n```\n"
    yield "`param` names the field, where there is one. What may be tried again as it is says so.\n"
    yield "| code | status | type | try again | the message, `...` stands for values |"
    yield "|---|---|---|---|---|"
    for (code, _), (kind, status, messages) in sorted(_codes().items()):
        again = "yes" if kind.retryable else ""
        yield f"| `{code}` | {status} | `{kind.type}` | {again} | {'<br>'.join(sorted(messages))} |"


def _codes() -> dict[tuple[str, int], tuple[type[errors.TokenworksError], int, set[str]]]:
    kinds = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    found: dict[tuple[str, int], tuple[type[errors.TokenworksError], int, set[str]]] = {}
    served = [source for source in package() if slice_of(source) not in _NOT_SERVED]
    for node in (node for source in served for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
        kind = kinds.get(ast.unparse(node.func).rpartition(".")[2])
        if kind is None or kind is errors.StartError or not issubclass(kind, errors.TokenworksError) or not node.args:
            continue
        given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
        code, status = str(given.get("code") or kind.default_code), int(str(given.get("status") or kind.status))
        _, _, messages = found.setdefault((code, status), (kind, status, set()))
        if (message := _text(node.args[0])) is not None:
            messages.add(message)
    return found


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("|", "\\|")
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
        return "".join(parts).replace("|", "\\|")
    return None


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
