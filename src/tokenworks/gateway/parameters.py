"""The parameters of a chat completion: which there are, what they may be, and what of them an engine gets. Pure.

Parameters are a closed list: an unknown one is refused, because an engine has switches of its own (`n_predict`,
`lora`, `id_slot`) by which a client could pass the caps. Some are accepted and mean nothing here.
"""

import re
from typing import Annotated, Any, Literal

import msgspec

from tokenworks.kit.errors import InvalidRequestError

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


class ChatParameters(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A chat completion request as a client may send it. Names and meanings are OpenAI's, then vLLM's."""

    messages: msgspec.Raw
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    seed: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: _ResponseFormat | None = None
    # beyond OpenAI's, as vLLM's users know them
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None
    # accepted without effect
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # OpenAI's, not served by this engine yet: an empty value is accepted, any other is refused by name
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None


class ChatRequest(msgspec.Struct, frozen=True):
    """What the door needs to know of a checked request, and the JSON members that go to an engine."""

    model: str
    is_stream: bool
    wants_usage: bool
    choices: int
    output_tokens_max: int | None
    parameters: ChatParameters


_decoder = msgspec.json.Decoder(ChatParameters)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_encoder = msgspec.json.Encoder()

_UNSUPPORTED = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "web_search_options",
)
_SEED_RANDOM = 0xFFFF_FFFF


def read_chat(body: bytes) -> ChatRequest:
    """Check a chat completion's body.

    Raises:
        InvalidRequestError: with the field in `param` and a stable code.
    """
    where = ""
    try:
        parameters = _decoder.decode(body)
        where = "messages"
        messages = _messages_decoder.decode(parameters.messages)
        _check_text(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _translate(error, where) from error
    _check_messages(messages)
    _check_together(parameters)
    options = parameters.stream_options
    limit = parameters.max_completion_tokens
    return ChatRequest(
        model=parameters.model or "",
        is_stream=bool(parameters.stream),
        wants_usage=options is not None and bool(options.include_usage),
        choices=parameters.n or 1,
        output_tokens_max=parameters.max_tokens if limit is None else limit,
        parameters=parameters,
    )


def engine_body(request: ChatRequest, output_tokens_max: int, suffix: bytes) -> bytes:
    """The body for an engine: the client's sampling parameters, an enforced cap, and the dialect's own members.

    The parameters are used up by this: what is not the engine's is taken out of them.
    """
    parameters = request.parameters
    if parameters.seed is not None:
        seed = parameters.seed & 0xFFFF_FFFF
        parameters.seed = seed if seed != _SEED_RANDOM else seed - 1
    repetition = parameters.repetition_penalty
    parameters.repetition_penalty = None
    _take_out(parameters)
    limit = request.output_tokens_max
    cap = output_tokens_max if limit is None else min(limit, output_tokens_max)
    tail = b',"max_tokens":%d,' % cap
    if repetition is not None:
        tail += b'"repeat_penalty":%s,' % _encoder.encode(repetition)
    return _encoder.encode(parameters)[:-1] + tail + suffix + b"}"


def _take_out(parameters: ChatParameters) -> None:
    """Leave only what is the engine's: not the door's own, not what has no effect, not empty values of the rest."""
    p = parameters
    p.model = p.stream = p.stream_options = p.max_tokens = p.max_completion_tokens = None
    p.user = p.metadata = p.store = p.service_tier = p.safety_identifier = p.prompt_cache_key = None
    p.response_format = p.modalities = None
    p.tools = p.tool_choice = p.parallel_tool_calls = p.functions = p.function_call = None
    p.audio = p.prediction = p.reasoning_effort = p.verbosity = p.web_search_options = None


def _check_text(body: bytes) -> None:
    """Every byte must be UTF-8, also where the value is passed on unread."""
    if not body.isascii():
        body.decode("utf-8")


def _check_messages(messages: list[_Message]) -> None:
    if not messages:
        raise InvalidRequestError("messages must hold at least one message", code="invalid_value", param="messages")
    for index, message in enumerate(messages):
        if message.content is None and message.role != "assistant":
            raise InvalidRequestError(
                f"messages[{index}] has no content",
                code="missing_required_parameter",
                param=f"messages[{index}].content",
            )
        if isinstance(message.content, list):
            _check_parts(index, message.content)


def _check_parts(index: int, parts: list[_Part]) -> None:
    for position, part in enumerate(parts):
        where = f"messages[{index}].content[{position}]"
        if part.type not in ("text", "refusal"):
            raise InvalidRequestError(
                f"this model reads text; a part of type {part.type!r} is not supported",
                code="unsupported_content",
                param=f"{where}.type",
            )
        if part.type == "text" and part.text is None:
            raise InvalidRequestError(f"{where} has no text", code="missing_required_parameter", param=f"{where}.text")


def _check_together(parameters: ChatParameters) -> None:
    if not parameters.model:
        raise InvalidRequestError("model is missing", code="missing_required_parameter", param="model")
    if parameters.stream_options is not None and not parameters.stream:
        raise InvalidRequestError(
            "stream_options is only allowed when stream is true", code="invalid_value", param="stream_options"
        )
    if parameters.top_logprobs is not None and not parameters.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", code="invalid_value", param="top_logprobs")
    if parameters.stop == "" or (isinstance(parameters.stop, list) and "" in parameters.stop):
        raise InvalidRequestError("stop must not hold an empty string", code="invalid_value", param="stop")
    if parameters.response_format is not None and parameters.response_format.type != "text":
        raise _unsupported("response_format")
    if parameters.modalities not in (None, ["text"]):
        raise _unsupported("modalities")
    if parameters.seed is not None and not -(2**63) <= parameters.seed < 2**64:
        raise InvalidRequestError("seed must fit 64 bits", code="invalid_value", param="seed")
    for name in _UNSUPPORTED:
        value = getattr(parameters, name)
        if value is not None and value not in ([], "none", "auto"):
            raise _unsupported(name)


def _unsupported(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the parameter {name!r} is not supported by this model's engine", code="unsupported_parameter", param=name
    )


_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")


def _translate(error: Exception, where: str) -> InvalidRequestError:
    """One of msgspec's errors, with its path inside `where`, as a client should read it."""
    text = str(error)
    at = _PATH.search(text)
    path = where + (at.group(1) if at else "")
    reason = text[: at.start()] if at else text
    if isinstance(error, RecursionError):
        return InvalidRequestError("the body is nested too deeply", code="invalid_json")
    if isinstance(error, UnicodeDecodeError) or "utf-8" in text.lower():
        return InvalidRequestError("the body is not valid UTF-8", code="invalid_utf8")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequestError(f"the body is not valid JSON: {text}", code="invalid_json")
    return _translate_field(reason, path)


def _translate_field(reason: str, path: str) -> InvalidRequestError:
    unknown = _UNKNOWN.search(reason)
    if unknown:
        name = _join(path, unknown.group(1))
        return InvalidRequestError(f"unknown parameter: {name!r}", code="unknown_parameter", param=name)
    missing = _MISSING.search(reason)
    if missing:
        name = _join(path, missing.group(1))
        return InvalidRequestError(f"{name} is missing", code="missing_required_parameter", param=name)
    is_type = re.match(r"Expected `[^`]*`, got ", reason) is not None
    code = "invalid_type" if is_type else "invalid_value"
    where = f"{path}: " if path else "the body: "
    return InvalidRequestError(where + reason[0].lower() + reason[1:], code=code, param=path or None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
