"""`tokenworks chat`: the answer as it comes, the conversation as it was."""

import io
import json

import pytest

from tests.unit.cli.conftest import Cardboard, Run
from tokenworks.cli.chat import Conversation, _harmless
from tokenworks.client.client import Client


def events(*texts: str, is_cut: bool = False) -> bytes:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    lines = ["data: " + json.dumps(chunk) for chunk in [{"choices": [{"delta": {"role": "assistant"}}]}, *chunks]]
    return "\n\n".join([*lines, "" if is_cut else "data: [DONE]\n\n"]).encode()


@pytest.fixture
def answering(board: Cardboard) -> Cardboard:
    board.answers["GET /v1/models"] = {"data": [{"id": "first"}, {"id": "second"}]}
    board.answers["POST /v1/chat/completions"] = [events("Hel", "lo"), events("again")]
    return board


def test_a_prompt_is_answered_by_the_first_model(answering: Cardboard, run: Run) -> None:
    assert run("chat", "Hi", "--max-tokens", "5", "--temperature", "0").out == "Hello\n"
    assert answering.asked[-1][2] == {
        "model": "first",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0,
    }


def test_a_named_model_is_taken_at_its_word(answering: Cardboard, run: Run) -> None:
    run("chat", "Hi", "--model", "second")
    assert [path for _, path, _ in answering.asked] == ["/v1/chat/completions"]


def test_a_prompt_comes_by_a_pipe(answering: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a file\n"))
    assert run("chat").out == "Hello\n"
    assert answering.asked[-1][2]["messages"][0]["content"] == "from a file"


def test_an_empty_pipe_is_refused(answering: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert "nothing to say" in run("chat").err


def test_no_model_yet(board: Cardboard, run: Run) -> None:
    board.answers["GET /v1/models"] = {"data": []}
    assert "serves no model yet" in run("chat", "Hi").err


def test_a_cut_answer_fails(answering: Cardboard, run: Run) -> None:
    answering.answers["POST /v1/chat/completions"] = events("Hel", is_cut=True)
    result = run("chat", "Hi")
    assert (result.code, result.out) == (1, "Hel")
    assert "cut before its end" in result.err


def test_a_conversation_remembers(answering: Cardboard) -> None:
    conversation = Conversation(Client(answering.url), "first")
    assert "".join(conversation.ask("one")) == "Hello"
    assert "".join(conversation.ask("two")) == "again"
    assert [message["content"] for message in answering.asked[-1][2]["messages"]] == ["one", "Hello", "two"]


def test_a_cancelled_answer_is_remembered_as_far_as_it_came(answering: Cardboard) -> None:
    conversation = Conversation(Client(answering.url), "first")
    answer = conversation.ask("one")
    while next(answer) != "Hel":
        pass
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "Hel"}


def test_interactive_goes_on_after_an_error(answering: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    refusal = {"error": {"message": "all slots are taken", "status": 503}}
    answering.answers["POST /v1/chat/completions"] = [refusal, events("fine")]
    monkeypatch.setattr("sys.stdin", Terminal("one\n\ntwo\n"))
    result = run("chat")
    assert result.code == 0
    assert "fine\n" in result.out
    assert result.err == "tokenworks: all slots are taken\n"
    assert [message["content"] for message in answering.asked[-1][2]["messages"]] == ["two"]


def test_ctrl_c_cancels_the_answer_and_not_the_conversation(
    answering: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if text == "Hel":
                raise KeyboardInterrupt
            return super().write(text)

    screen = Screen()
    monkeypatch.setattr("sys.stdin", Terminal("one\ntwo\n"))
    monkeypatch.setattr("sys.stdout", screen)
    assert run("chat").code == 0
    assert screen.getvalue().index("(cancelled)") < screen.getvalue().index("again")


def test_an_answer_cannot_steer_a_terminal() -> None:
    assert _harmless("a\x1b[2J\tb\r\nc\x07 \u00e9") == "a[2J\tb\nc \u00e9"


def test_a_chunk_that_cannot_be_read_fails(answering: Cardboard, run: Run) -> None:
    answering.answers["POST /v1/chat/completions"] = b"data: {\n\n"
    assert "cannot be read" in run("chat", "Hi").err
