"""Downloads against a real server on this machine: resumed, broken off, without ranges, and with the wrong content."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dataset_files
import numpy as np
import pytest

from calex.datasets import _downloads, cifar10, fashion_mnist
from calex.datasets._downloads import fetch
from calex.errors import CalexError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; breaks each of the first `breaks` answers off after `after` bytes; notes the ranges asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/archive": CONTENT}
        self.ranges = True
        self.breaks = self.failures = 0
        self.after = 100_000
        self.asked: list[str | None] = []

    def url(self, path: str = "/archive") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        data = server.files.get(self.path)
        if data is None:
            return self.send_error(404)
        if server.failures:
            server.failures -= 1
            return self.send_error(503)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if server.breaks:
            server.breaks -= 1
            rest = rest[: server.after]
        self.wfile.write(rest)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(_downloads, "PAUSES", (0, 0))
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_verified_and_done_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "archive.tar.gz"
    assert fetch((server.url(),), path, MD5) == path
    assert path.read_bytes() == CONTENT and left(path.parent) == ["archive.tar.gz"]
    fetch((server.url(),), path, MD5)
    assert server.asked == [None]


def test_a_connection_that_breaks_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    fetch((server.url(),), tmp_path / "archive", MD5)
    assert (tmp_path / "archive").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.part").write_bytes(CONTENT[:123_456])
    fetch((server.url(),), tmp_path / "archive", MD5)
    assert server.asked == ["bytes=123456-"] and (tmp_path / "archive").read_bytes() == CONTENT
    assert left(tmp_path) == ["archive"]


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.part").write_bytes(CONTENT)
    fetch((server.url(),), tmp_path / "archive", MD5)
    assert left(tmp_path) == ["archive"]


def test_a_server_without_ranges_sends_it_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "archive.part").write_bytes(b"x" * 1000)
    fetch((server.url(),), tmp_path / "archive", MD5)
    assert (tmp_path / "archive").read_bytes() == CONTENT


def test_a_server_that_never_ends_well_leaves_what_came(server: Server, tmp_path: Path) -> None:
    server.breaks, server.after = 100, 0
    (tmp_path / "archive.part").write_bytes(CONTENT[:1000])
    with pytest.raises(CalexError, match=r"archive: no download \(.*the connection ended after 0 of 299000 bytes") as error:
        fetch((server.url(),), tmp_path / "archive", MD5)
    assert "\n" not in str(error.value) and "rerun to continue" in str(error.value)
    assert left(tmp_path) == ["archive.part"] and (tmp_path / "archive.part").read_bytes() == CONTENT[:1000]
    assert len(server.asked) == 3  # the first attempt and one after each pause


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.failures = 2
    fetch((server.url(),), tmp_path / "archive", MD5)
    assert len(server.asked) == 3
    with pytest.raises(CalexError, match=r"other: no download .*HTTP 404"):
        fetch((server.url("/nothing"),), tmp_path / "other", MD5)
    assert len(server.asked) == 4


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_downloads, "PAUSES", ())
    with pytest.raises(CalexError, match=rf"archive: no download .*put the file into {tmp_path} yourself") as error:
        fetch(("http://127.0.0.1:9/archive",), tmp_path / "archive", MD5)
    assert "\n" not in str(error.value)


def test_the_wrong_content_never_gets_the_final_name(server: Server, tmp_path: Path) -> None:
    server.files["/archive"] = b"<html>we have moved</html>"
    found = hashlib.md5(server.files["/archive"]).hexdigest()
    with pytest.raises(CalexError, match=f"wrong checksum, found {found}, expected {MD5}"):
        fetch((server.url(),), tmp_path / "archive", MD5)
    assert not (tmp_path / "archive").exists()
    assert (tmp_path / "archive.part").read_bytes() == b"", "the next try must not go on from it"


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.files["/moved"] = b"<html>we have moved</html>"
    fetch((server.url("/nothing"), server.url("/moved"), server.url()), tmp_path / "archive", MD5)
    assert (tmp_path / "archive").read_bytes() == CONTENT


def test_two_who_want_the_same_file_download_it_once(server: Server, tmp_path: Path) -> None:
    server.breaks, server.after = 5, 50_000
    threads = [threading.Thread(target=fetch, args=((server.url(),), tmp_path / "archive", MD5)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "archive").read_bytes() == CONTENT and left(tmp_path) == ["archive"]
    assert server.asked.count(None) == 1


def test_loaders_download_what_is_not_there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = dataset_files.archived(dataset_files.cifar10(tmp_path / "made"), tmp_path / "a.tar.gz").read_bytes()
    server.files["/cifar"] = packed
    server.breaks, server.after = 1, 1000
    md5 = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE", replace(cifar10.ARCHIVE, md5=md5, urls=(server.url("/cifar"),)))
    dataset = cifar10.load(tmp_path / "resources", None, None, 50, 0)
    assert len(dataset.images) == 230 and left(tmp_path / "resources") == [cifar10.ARCHIVE.file]

    folder = dataset_files.fashion(tmp_path / "idx")
    server.files |= {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(fashion_mnist, "PACKAGED", tmp_path / "not installed")
    monkeypatch.setattr(fashion_mnist, "ADDRESSES", (server.url("/"),))
    with pytest.raises(CalexError, match=r"train-images-idx3-ubyte\.gz: no download .*wrong checksum"):
        fashion_mnist.load(tmp_path / "resources", None, 20, 0)
    real = {path.name.removesuffix(".gz"): _downloads.md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(fashion_mnist, "FILES", real)
    assert len(fashion_mnist.load(tmp_path / "resources", None, 20, 0).images) == 250
