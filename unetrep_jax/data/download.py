"""Downloads one large file, going on where an interrupted download stopped."""

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from unetrep_jax.storage import InputError, Progress

MEGABYTE = 1 << 20
SECONDS_OF_SILENCE = 60.0


def download(url: str, path: Path, *, remedy: str, check: Callable[[Path], str]) -> None:
    """Downloads `url` to `path`, unless it is there; `path` appears only when it is whole and passed `check`.

    Args:
      url: address.
      path: where the file goes; while it comes it is beside, as `<name>.partial`, and is continued from there.
      remedy: what a person can do when this fails, a sentence.
      check: says what is wrong with the whole file, "" when nothing is; a wrong file is removed.

    Raises:
      InputError: the address does not answer, the connection ended early, or the file is not what it should be.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        _receive(url, partial)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise InputError(f"Downloading {url} failed ({error or type(error).__name__}). {remedy}") from error
    if wrong := check(partial):
        partial.unlink()
        raise InputError(f"What came from {url} cannot be used: {wrong}. {remedy}")
    os.replace(partial, path)


def _receive(url: str, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        reply = urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{done}":
            return  # everything had come before the interruption
        raise
    with reply:
        continued = reply.status == 206
        done = done if continued else 0
        length = reply.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with open(partial, "ab" if continued else "wb") as file:
            _copy(reply, file, Progress(f"downloading {url}", (total or 0) // MEGABYTE, "MB", done // MEGABYTE))
    if total is not None and partial.stat().st_size != total:
        raise ConnectionError(f"the connection ended after {partial.stat().st_size:,} of {total:,} bytes; run it again")


def _copy(reply: http.client.HTTPResponse, file, progress: Progress) -> None:
    with progress:
        while block := reply.read(MEGABYTE):
            file.write(block)
            progress.advance(1)
