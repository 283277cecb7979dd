"""Downloads that are whole or not there: checksum first, then the name; likewise for unpacking."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from harness.core.errors import DataError, UsageError

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60


def unpacked(url: str, md5: str, root: Path, name: str) -> Path:
    """Return the folder ``root/name`` with an archive's content; download and unpack it if absent.

    Several processes may do so at once: each works aside, and the last step is a rename.

    Args:
        url: Where the archive is published.
        md5: Its published checksum, hexadecimal.
        root: Folder that holds, or will hold, the archive and its content.
        name: Name of the folder with the content.

    Raises:
        UsageError: If it cannot be downloaded, or has another checksum.
        DataError: If it cannot be unpacked, or a member would land outside the folder.
    """
    folder = root / name
    if not folder.is_dir():
        archive = root / url.rpartition("/")[2]
        fetch(url, md5, archive)
        unpack(archive, folder)
    return folder


def fetch(url: str, md5: str, target: Path) -> None:
    """Download a file unless it is there, and check it either way.

    Raises:
        UsageError: If it cannot be downloaded, or has another checksum. A file that was there
            before is left as it is.
    """
    if target.exists():
        _check(target, md5, f"{target}", f"Move it away to download it again from {url}.")
        return
    log.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _aside(target) as folder:
            fresh = Path(folder) / target.name
            _download(url, fresh)
            _check(fresh, md5, url, "It was not kept.")
            fresh.replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(
            f"{url} cannot be downloaded: {error}. Without a network, put the file (MD5 {md5}) "
            f"at {target}."
        ) from error


def _aside(target: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder beside a path, so that moving what is in it there is one rename."""
    return tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part", ignore_cleanup_errors=True
    )


def _download(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
        promised = answer.headers.get("Content-Length")
    if promised is not None and int(promised) != target.stat().st_size:
        raise OSError(f"it ended after {target.stat().st_size} of {promised} bytes")


def _check(path: Path, md5: str, label: str, advice: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise UsageError(f"{label} is another file: expected MD5 {md5}, got {found}. {advice}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar.* file into a new folder: all of it or nothing.

    A single folder at the top of the archive is left out of the paths.

    Raises:
        DataError: If it is no such file or is damaged, or a member's path or link leads outside.
    """
    try:
        with _aside(folder) as aside:
            content = Path(aside) / "content"
            content.mkdir()
            _extract(archive, content)
            top = list(content.iterdir())
            _publish(top[0] if len(top) == 1 and top[0].is_dir() else content, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error


def _publish(content: Path, folder: Path) -> None:
    try:
        content.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _extract(archive: Path, folder: Path) -> None:
    if not zipfile.is_zipfile(archive):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # refuses paths and links that lead outside
        return
    with zipfile.ZipFile(archive) as members:
        for name in members.namelist():
            path = PurePosixPath(name)
            # zipfile would mend such a path in silence and put the file somewhere else.
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{archive} has a member outside its folder: {name!r}.")
        members.extractall(folder)
