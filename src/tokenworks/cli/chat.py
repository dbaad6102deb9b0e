"""`tokenworks chat`: talk to a model. The answer is shown as it comes; Ctrl-C cancels it, and what was generated up to
then is metered like any answer.
"""

import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import typer

from tokenworks.client.call import Call
from tokenworks.client.client import Client
from tokenworks.kit.errors import InvalidRequestError, TokenworksError, UnavailableError

_WAIT_S = 900
"""Longer than the door waits for a slot and a first token, so that its own sentence arrives."""


class _Model(msgspec.Struct, frozen=True):
    id: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []


_MODELS: Call[None, _Models] = Call("GET", "/v1/models", None, _Models)


@dataclass
class Conversation:
    """What was said so far, and how the model is asked."""

    client: Client
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, prompt: str) -> Generator[str]:
        """Yield the answer in parts. What was heard of it is remembered, even if the iterator is closed early."""
        messages = [*self.messages, {"role": "user", "content": prompt}]
        body: dict[str, object] = {"model": self.model, "messages": messages, "stream": True}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        heard: list[str] = []
        try:
            with closing(self.client.stream("/v1/chat/completions", body)) as events:
                for event in events:
                    text = _text_of(event)
                    heard.append(text)
                    yield text
        finally:
            if heard:
                self.messages = [*messages, {"role": "assistant", "content": "".join(heard)}]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat")(chat)


def chat(
    prompt: Annotated[str, typer.Argument(help="What to say; without it the conversation is interactive.")] = "",
    model: Annotated[str, typer.Option(help="Model to ask; without it the first that is served.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always gives the likeliest word.")] = None,
) -> None:
    """Talk to a model. Ctrl-C cancels an answer; Ctrl-D ends the conversation. A prompt may also come by a pipe."""
    from tokenworks.cli.connection import open_client

    client = open_client(timeout_s=_WAIT_S)
    conversation = Conversation(client, model or _first_model(client), max_tokens, temperature)
    if prompt:
        _answer(conversation, prompt)
    elif sys.stdin.isatty():
        _converse(conversation)
    else:
        _answer(conversation, _read_prompt())


def _first_model(client: Client) -> str:
    models = client.call(_MODELS).data
    if not models:
        raise UnavailableError(f"{client.url} serves no model yet; see `tokenworks deployments list`")
    return models[0].id


def _read_prompt() -> str:
    try:
        prompt = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the prompt on stdin is not text: {error}") from error
    if not prompt:
        raise InvalidRequestError("there is nothing to say; try: tokenworks chat 'Hello!'")
    return prompt


def _converse(conversation: Conversation) -> None:
    print(f"{conversation.model}: Ctrl-C cancels an answer, Ctrl-D ends the conversation.")
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not prompt:
            continue
        try:
            _answer(conversation, prompt)
        except KeyboardInterrupt:
            print("\n(cancelled)")
        except TokenworksError as error:
            print(f"tokenworks: {error.message}", file=sys.stderr)


def _answer(conversation: Conversation, prompt: str) -> None:
    is_terminal = sys.stdout.isatty()
    with closing(conversation.ask(prompt)) as parts:
        for part in parts:
            sys.stdout.write(_harmless(part) if is_terminal else part)
            sys.stdout.flush()
    print()


def _text_of(event: bytes) -> str:
    try:
        chunk = msgspec.json.decode(event, type=_Chunk)
    except msgspec.DecodeError as error:
        raise UnavailableError(f"the answer holds a part that cannot be read: {error}") from error
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def _harmless(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
