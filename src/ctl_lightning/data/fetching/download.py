"""How a published data set is fetched: its metadata once and unchanged, and those of its images that still exist."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from ctl_lightning.data.fetching.http import Check, fetch
from ctl_lightning.data.fetching.remote import Limits, Remote, Report
from ctl_lightning.data.images import open_upright
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.runtime.large_files import told_if_full
from ctl_lightning.runtime.locks import alone
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import json_lines, read_json

log = logging.getLogger(__name__)

DEAD = "dead_images.jsonl"
FETCHED = "fetched.json"


@dataclass(frozen=True)
class Downloader:
    """Fetches files, with limits on load and on repetitions.

    Attributes:
        connections: largest number of requests at a time.
        requests_per_second: largest number of requests in a second; None: as many as the connections allow.
        timeout: seconds without a byte after which a request is given up; a whole file may take ten times as long.
        retries: number of repetitions of a request after 429, 5xx, a timeout, a broken connection or a broken image.
        retry_dead: whether to ask again for files that were dead in an earlier run.
        offline: whether to fetch nothing and use what is there.
    """

    connections: int
    requests_per_second: float | None
    timeout: float
    retries: int
    retry_dead: bool
    offline: bool

    def __post_init__(self) -> None:
        if self.connections < 1 or self.timeout <= 0 or self.retries < 0:
            raise ValueError("connections must be at least 1, timeout above 0 and retries at least 0")
        if self.requests_per_second is not None and self.requests_per_second <= 0:
            raise ValueError("requests_per_second must be above 0, or null")

    def metadata(self, files: Sequence[Remote], root: Path) -> list[str]:
        """Fetches the metadata files that are not there; the hash of each is noted before the file gets its name.

        Args:
            files: metadata files of a data set: few, large, and all of them needed.
            root: folder of the data.

        Returns:
            Names of the files that were fetched, now or in an earlier run.

        Raises:
            InputError: a file is not there and cannot be fetched, or has another hash than it should have.
        """
        noted: dict[str, dict[str, str]] = _read_json(root / FETCHED) if (root / FETCHED).exists() else {}

        def check(file: Remote, body: bytes) -> None:
            if body.lstrip()[:1] not in (b"{", b"["):
                raise OSError("not JSON")
            found = hashlib.sha256(body).hexdigest()
            if file.sha256 not in (None, found):
                raise InputError(
                    f"{file.url}: checksum mismatch: sha256 {found}, expected {file.sha256}; it is another version: give a mirror with "
                    "data.source.metadata_url=URL"
                )
            noted[file.name] = {"url": file.url, "sha256": found}
            write_text(root / FETCHED, json.dumps(noted, indent=2, sort_keys=True) + "\n")
            log.info("%s: sha256 %s", file.path, found)

        for file in files:
            if not file.path.exists() and not self.offline:
                log.info("fetching %s", file.url)
                report = self._fetch([file], root, "metadata", check)
                for why in (report.dead | report.failed).values():
                    raise InputError(
                        f"{file.url}: {why}; put {file.name} into {root} yourself, or give a mirror with data.source.metadata_url=URL"
                    )
            known = file.sha256 or noted.get(file.name, {}).get("sha256")
            if known and file.path.exists() and (found := sha256_of(file.path)) != known:
                raise InputError(
                    f"{file.path}: checksum mismatch: sha256 {found}, expected {known}; it has changed or is another version: "
                    f"delete it and {root / FETCHED}, and run the command again"
                )
        return sorted(noted)

    def images(self, files: Sequence[Remote], root: Path) -> Report:
        """Fetches the images that are not there. Each is decoded before it gets its name; dead ids are listed.

        Args:
            files: images to fetch.
            root: folder of the data, which also has the list of dead ids, `dead_images.jsonl`.

        Raises:
            InputError: a host does not answer or refuses, the disk is full, or another process fetches into `root`.
        """
        listing = root / DEAD
        listed = _read_dead(listing)
        known = {file.name: listed[file.name, file.url] for file in files if (file.name, file.url) in listed}
        wanted = [file for file in files if self.retry_dead or file.name not in known]
        missing = [file for file in wanted if not _is_there(file.path)]
        report = Report()
        if missing and not self.offline:

            def note(report: Report) -> None:
                alive = {
                    name for name in known if self.retry_dead and name not in report.dead and _is_there(paths[name])
                }
                dead = {name: why for name, why in (known | report.dead).items() if name not in alive}
                if dead or listing.exists():
                    _write_dead(listing, files, dead)

            paths = {file.name: file.path for file in files}
            report = self._fetch(missing, root, "images", _check_image, note)
        report.there = len(wanted) - len(missing)
        if not self.retry_dead:
            report.dead = known | report.dead
        if report.failed:
            name, why = next(iter(report.failed.items()))
            hosts = [f"{host}: {why}" for host, why in report.given_up.items()]
            more = f" (and {len(hosts) - 1} more hosts)" if len(hosts) > 1 else ""
            raise InputError(
                f"{len(report.failed):,} images could not be fetched, {f'{hosts[0]}{more}' if hosts else f'first {name} ({why})'}; "
                f"{report}; what has arrived is kept: run the command again for the others, or go on without them with "
                "download.offline=true"
            )
        return report

    def _fetch(
        self,
        files: Sequence[Remote],
        root: Path,
        what: str,
        check: Check,
        note: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        root.mkdir(parents=True, exist_ok=True)
        limits = Limits(self.connections, self.requests_per_second, self.timeout, self.retries)
        busy = f"{root}: another process is fetching into it; wait until it has ended"
        with (
            alone(root / ".fetching.lock", busy),
            progress(f"fetching {what}", len(files)) as shown,
            told_if_full(root, "has arrived"),
        ):
            return fetch(files, limits, check, note, shown)


def _check_image(file: Remote, body: bytes) -> None:
    open_upright(BytesIO(body)).convert("RGB")


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(f"{error}; delete it") from None


def _read_dead(path: Path) -> dict[tuple[str, str], str]:
    """(id, address) -> reason why it is dead. An id whose address has changed is asked for again."""
    known = {}
    if path.exists():
        for where, row in json_lines(path):
            try:
                known[row["id"], row["url"]] = row["reason"]
            except (KeyError, TypeError):
                raise InputError(f"{where}: not a line of a list of dead ids; delete the file") from None
    return known


def _write_dead(path: Path, files: Sequence[Remote], dead: Mapping[str, str]) -> None:
    rows = [
        {"id": file.name, "url": file.url, "reason": dead[file.name]} for file in sorted(files) if file.name in dead
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
