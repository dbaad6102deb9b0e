"""A tokenworks of cardboard: it answers a route with what a test put there, and keeps what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tokenworks.cli import main as program

Answer = Any
Run = Callable[..., "Result"]


class Result:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cardboard:
    """`answers` maps `GET /path` to a value, or to a list of them that are given one after the other."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.keys: set[str | None] = set()
        board = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                board.asked.append((self.command, self.path, body))
                board.keys.add(self.headers.get("Authorization"))
                answer = board.answers[f"{self.command} {self.path.partition('?')[0]}"]
                if isinstance(answer, list):
                    answer = answer.pop(0)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(answer["error"]["status"] if isinstance(answer, dict) and "error" in answer else 200)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cardboard]:
    made = Cardboard()
    monkeypatch.setenv("TOKENWORKS_URL", made.url)
    monkeypatch.setenv("TOKENWORKS_API_KEY", "tw-test")
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.001})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def _run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            program.main(list(arguments))
        said = capsys.readouterr()
        return Result(int(ended.value.code or 0), said.out, said.err)

    return _run
