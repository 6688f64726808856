import asyncio
import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from factories import image_id, save_image
from filelock import FileLock
from photo_server import Faults, PhotoServer, share

from ctl_lightning.data.fetching import http as fetching
from ctl_lightning.data.fetching.download import Downloader
from ctl_lightning.data.fetching.remote import Remote
from ctl_lightning.runtime.errors import InputError

IDS = [image_id(f"photo{n}") for n in range(120)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host") / "images"
    for seed, name in enumerate(IDS):
        save_image(folder / name[:2] / f"{name}.jpg", seed)
    return folder


@pytest.fixture
def server(photos: Path) -> Iterator[PhotoServer]:
    with PhotoServer(photos).running() as running:
        yield running


def downloader(**options: Any) -> Downloader:
    defaults: dict[str, Any] = {
        "connections": 8,
        "requests_per_second": None,
        "timeout": 0.5,
        "retries": 6,
        "retry_dead": False,
        "offline": False,
    }
    return Downloader(**defaults | options)


def remotes(server: PhotoServer, root: Path, names: list[str] = IDS) -> list[Remote]:
    return [
        Remote(name, f"{server.url}/400x/{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.jpg", path_of(root, name))
        for name in names
    ]


def path_of(root: Path, name: str) -> Path:
    return root / "images" / name[:2] / f"{name}.jpg"


def arrived(root: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in root.rglob("*.jpg")}


def dead(root: Path) -> dict[str, str]:
    path = root / "dead_images.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["id"]: row["reason"] for row in rows}


def test_every_live_image_arrives_intact_and_the_dead_ones_are_named(server: PhotoServer, tmp_path: Path) -> None:
    server.faults = Faults(0.10, 0.05, 0.05, 0.05, 0.05, gone=0.05, seconds=1.0)
    report = downloader().images(remotes(server, tmp_path), tmp_path)
    gone = {name for name in IDS if server.is_gone(name)}
    assert 0 < len(gone) < 20
    assert arrived(tmp_path) == {name: body for name, body in arrived(server.images).items() if name not in gone}
    assert dead(tmp_path) == report.dead == dict.fromkeys(sorted(gone), "404 Not Found")
    assert report.fetched == len(IDS) - len(gone)
    assert report.retries >= sum(server.answers[kind] for kind in ("503", "page", "truncated"))
    assert server.answers.keys() == {"503", "page", "truncated", "slow", "200", "404", "hanging"}
    assert all(server.asked[name] == 1 for name in gone)  # a 404 is not asked for again
    assert "retries" in str(report)
    assert {path.name for path in tmp_path.rglob(".*")} == {".fetching.lock"}


def test_a_second_run_asks_for_nothing(server: PhotoServer, tmp_path: Path) -> None:
    server.always = {IDS[3]: 410}
    downloader().images(remotes(server, tmp_path), tmp_path)
    asked = server.asked.total()
    report = downloader().images(remotes(server, tmp_path), tmp_path)
    assert server.asked.total() == asked
    assert (report.fetched, report.there, report.dead) == (0, len(IDS) - 1, {IDS[3]: "410 Gone"})
    server.always = {}
    again = downloader(retry_dead=True).images(remotes(server, tmp_path), tmp_path)
    assert (again.fetched, again.dead, dead(tmp_path)) == (1, {}, {})


def test_an_id_that_is_dead_at_one_address_is_asked_for_at_another(server: PhotoServer, tmp_path: Path) -> None:
    server.always = {IDS[0]: 404}
    downloader().images(remotes(server, tmp_path), tmp_path)
    server.always = {}
    elsewhere = [file._replace(url=file.url + "?mirror") for file in remotes(server, tmp_path, IDS[:1])]
    with pytest.raises(InputError):  # the server knows no such path: it breaks the connection
        downloader(retries=0, connections=1).images(elsewhere, tmp_path)


def test_an_empty_file_is_fetched_again_and_others_are_left_alone(server: PhotoServer, tmp_path: Path) -> None:
    for name, content in ((IDS[0], b""), (IDS[1], b"mine")):
        path_of(tmp_path, name).parent.mkdir(parents=True, exist_ok=True)
        path_of(tmp_path, name).write_bytes(content)
    downloader().images(remotes(server, tmp_path, IDS[:2]), tmp_path)
    assert arrived(tmp_path) == {IDS[0]: arrived(server.images)[IDS[0]], IDS[1]: b"mine"}


def test_offline_uses_what_is_there(server: PhotoServer, tmp_path: Path) -> None:
    downloader().images(remotes(server, tmp_path, IDS[:5]), tmp_path)
    asked = server.asked.total()
    report = downloader(offline=True).images(remotes(server, tmp_path), tmp_path)
    assert (report.there, report.fetched, server.asked.total()) == (5, 0, asked)


def test_a_page_that_never_becomes_an_image_is_dead(server: PhotoServer, tmp_path: Path) -> None:
    server.faults = Faults(page=1.0)
    report = downloader(retries=2).images(remotes(server, tmp_path, IDS[:3]), tmp_path)
    assert report.dead == dict.fromkeys(IDS[:3], "not an image but a web page (HTML); download the picture itself")
    assert all(server.asked[name] == 3 for name in IDS[:3])
    assert arrived(tmp_path) == {}


def test_what_the_server_fails_to_give_is_not_dead(server: PhotoServer, tmp_path: Path) -> None:
    server.always = {IDS[0]: 500}
    with pytest.raises(InputError, match=rf"1 images could not be fetched, first {IDS[0]} \(500.*offline=true"):
        downloader(retries=1).images(remotes(server, tmp_path), tmp_path)
    assert dead(tmp_path) == {}
    assert len(arrived(tmp_path)) == len(IDS) - 1


def test_a_server_that_never_answers_is_named_once(server: PhotoServer, tmp_path: Path) -> None:
    server.faults = Faults(hanging=1.0, seconds=0.5)
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"127\.0\.0\.1.*no answer within 0\.1 s; so it was for 8 files in a row, each tried 2"
    ):
        downloader(timeout=0.1, retries=1).images(remotes(server, tmp_path), tmp_path)
    assert time.monotonic() - began < 5


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    nobody = PhotoServer(tmp_path, url="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9: cannot connect.*run the command again"):
        downloader(retries=0).images(remotes(nobody, tmp_path), tmp_path)


def test_a_server_that_refuses_us_kills_no_ids(
    server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "REFUSED_IN_A_ROW", 10)
    server.always = dict.fromkeys(IDS, 403)
    with pytest.raises(InputError, match=r"refused 10 files in a row \(403 Forbidden\).*fewer download\.connections"):
        downloader().images(remotes(server, tmp_path), tmp_path)
    assert dead(tmp_path) == {}
    server.always = {IDS[5]: 403}
    assert downloader().images(remotes(server, tmp_path), tmp_path).dead == {IDS[5]: "403 Forbidden"}


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_obeyed(server: PhotoServer, tmp_path: Path, date: bool) -> None:
    server.faults = Faults(unavailable=0.5, retry_after=formatdate(time.time() + 2, usegmt=True) if date else "0.4")
    names = [name for name in IDS if share_of_first(name) < 0.5][:1]
    began = time.monotonic()
    downloader(connections=1).images(remotes(server, tmp_path, names), tmp_path)
    assert time.monotonic() - began > 0.4
    server.faults.retry_after = "86400"
    others = [name for name in IDS if share_of_first(name) < 0.5][1:2]
    with pytest.raises(InputError, match="left alone for 1440 minutes"):
        downloader().images(remotes(server, tmp_path, others), tmp_path)


def share_of_first(name: str) -> float:
    return share("fault", name, 1)


def test_connections_and_rate_are_limited(server: PhotoServer, tmp_path: Path) -> None:
    server.faults = Faults(slow=1.0)
    downloader(connections=3).images(remotes(server, tmp_path, IDS[:6]), tmp_path)
    assert server.most_at_once == 3
    server.faults = Faults()
    report = downloader(requests_per_second=50).images(remotes(server, tmp_path, IDS[6:46]), tmp_path)
    assert report.seconds > 39 / 50


def test_addresses_that_are_none(server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = aiohttp.TCPConnector._resolve_host

    async def known_names(connector: Any, host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".invalid"):  # without a network a resolver may answer with another word
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return await resolve(connector, host, *arguments, **options)

    monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", known_names)
    files = [
        Remote("word", "nonsense", tmp_path / "word.jpg"),
        Remote("ftp", "ftp://127.0.0.1/a.jpg", tmp_path / "ftp.jpg"),
        Remote("dots", "http://..com/a.jpg", tmp_path / "dots.jpg"),
        Remote("long", f"http://{'x' * 70}.com/a.jpg", tmp_path / "long.jpg"),
        Remote("bracket", "http://[::1/a.jpg", tmp_path / "bracket.jpg"),
        *remotes(server, tmp_path, IDS[:3]),
        Remote("host", "http://no-such-host.invalid/a.jpg", tmp_path / "host.jpg"),
    ]
    report = downloader(connections=1, retries=0).images(files, tmp_path)
    none = dict.fromkeys(("word", "ftp", "dots", "long", "bracket"), "not an address")
    assert report.dead == none | {"host": "no such host"}


def test_a_page_for_everything_kills_no_ids(
    server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "REFUSED_IN_A_ROW", 10)
    server.faults = Faults(page=1.0)
    with pytest.raises(
        InputError, match=r"127\.0\.0\.1:\d+: it refused 10 files in a row \(not an image but a web page .*\)"
    ):
        downloader(retries=1).images(remotes(server, tmp_path), tmp_path)
    assert dead(tmp_path) == {}
    server.faults = Faults()
    assert downloader().images(remotes(server, tmp_path), tmp_path).fetched == len(IDS)


def test_a_network_that_drops_kills_no_ids(
    server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names stop to have addresses, in both words that resolvers have for it, after 20 images."""
    resolve = aiohttp.TCPConnector._resolve_host
    for code in (socket.EAI_AGAIN, socket.EAI_NONAME):
        root = tmp_path / str(code)

        async def drops(connector: Any, *arguments: Any, root: Path = root, code: int = code, **options: Any) -> Any:
            if len(arrived(root)) >= 20:
                raise socket.gaierror(code, "no")
            return await resolve(connector, *arguments, **options)

        monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", drops)
        monkeypatch.setattr(aiohttp.TCPConnector, "_get", lambda *_: asyncio.sleep(0))  # no connection is used twice
        with pytest.raises(InputError, match="no such host; so it was for 8 files in a row"):
            downloader(retries=1).images(remotes(server, root), root)
        assert len(arrived(root)) >= 20
        assert dead(root) == {}


def test_one_host_that_fails_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    with PhotoServer(photos).running() as good, PhotoServer(photos).running() as busy:
        busy.faults = Faults(unavailable=1.0, retry_after="86400")
        nobody = PhotoServer(photos, url="http://127.0.0.1:9")
        hosts = (busy, nobody, good)
        files = [
            remotes(host, tmp_path, IDS[40 * n : 40 * n + 40])[k] for k in range(40) for n, host in enumerate(hosts)
        ]
        with pytest.raises(
            InputError, match=r"80 images could not be fetched.*left alone for 1440 minutes.*1 more hosts"
        ):
            downloader(retries=1).images(files, tmp_path)
        assert arrived(tmp_path).keys() == set(IDS[80:])
        assert busy.asked.total() < 40


def test_the_folder_of_images_may_be_a_link_to_another_disk(server: PhotoServer, tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    with tempfile.TemporaryDirectory(dir=elsewhere) as disk:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "images").symlink_to(disk)
        downloader().images(remotes(server, tmp_path / "data", IDS[:5]), tmp_path / "data")
        assert len(list(Path(disk).rglob("*.jpg"))) == 5


def test_asking_again_for_the_dead_loses_none_of_them_if_the_host_fails(server: PhotoServer, tmp_path: Path) -> None:
    server.always = dict.fromkeys(IDS[:60], 404)
    downloader().images(remotes(server, tmp_path), tmp_path)
    server.always = dict.fromkeys(IDS[10:60], 500)
    with pytest.raises(InputError, match="could not be fetched"):
        downloader(retry_dead=True, retries=0).images(remotes(server, tmp_path), tmp_path)
    assert dead(tmp_path).keys() == {name for name in IDS[:60] if not path_of(tmp_path, name).exists()}
    assert len(dead(tmp_path)) >= 50


def test_two_downloads_into_one_folder_are_one_too_many(server: PhotoServer, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".fetching.lock"), pytest.raises(InputError, match="another process is fetching"):
        downloader().images(remotes(server, tmp_path), tmp_path)


def test_a_full_disk_keeps_what_has_arrived(
    server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, body: bytes) -> int:
        if len(arrived(tmp_path)) >= 5:
            raise OSError(28, "No space left on device")
        return write(path, body)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="the disk is full; what has arrived is kept"):
        downloader().images(remotes(server, tmp_path), tmp_path)
    assert len(arrived(tmp_path)) >= 5
    monkeypatch.undo()
    downloader().images(remotes(server, tmp_path), tmp_path)
    assert arrived(tmp_path) == arrived(server.images)


def test_a_broken_list_of_dead_ids_is_named_with_its_line(server: PhotoServer, tmp_path: Path) -> None:
    (tmp_path / "dead_images.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(InputError, match=r"dead_images\.jsonl:1"):
        downloader().images(remotes(server, tmp_path), tmp_path)


FETCH = """
import os
import signal
import sys
from pathlib import Path
from ctl_lightning.data.fetching import http as fetching
from ctl_lightning.data.fetching.download import Downloader
from ctl_lightning.data.fetching.remote import Remote
fetching.BACKOFF = 0.01
url, root, last, names = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
replace, replaced = os.replace, []
def counted(*arguments):
    replaced.append(arguments)
    if len(replaced) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)
os.replace = counted
files = [
    Remote(n, f"{url}/400x/{n[:2]}/{n[2:4]}/{n[4:6]}/{n}.jpg", root / "images" / n[:2] / f"{n}.jpg") for n in names
]
Downloader(4, None, 0.5, 6, False, False).images(files, root)
"""


@pytest.mark.long
def test_a_download_that_is_killed_again_and_again_ends_with_the_same_bytes(
    server: PhotoServer, tmp_path: Path
) -> None:
    server.faults = Faults(0.10, 0.0, 0.05, 0.05, 0.0, gone=0.05)
    downloader().images(remotes(server, tmp_path / "once"), tmp_path / "once")
    moments = random.Random(0)

    def fetch(last: int) -> int:
        command = [sys.executable, "-c", FETCH, server.url, str(tmp_path / "killed"), str(last), *IDS]
        return subprocess.run(command, check=False, capture_output=True).returncode

    sizes = []
    for _ in range(4):
        assert fetch(moments.randrange(1, 25)) == -signal.SIGKILL
        sizes.append(len(arrived(tmp_path / "killed" / "images")))
    assert fetch(0) == 0
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] < len(IDS)
    for what in ("images", "dead_images.jsonl"):
        assert contents(tmp_path / "killed" / what) == contents(tmp_path / "once" / what)


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path.parent)): one.read_bytes() for one in files}


class Metadata(NamedTuple):
    files: list[Remote]
    root: Path


@pytest.fixture
def metadata(server: PhotoServer, tmp_path: Path) -> Metadata:
    (server.images.parent / "fashion.json").write_text('{"product": 1}\n')
    root = tmp_path / "data"
    return Metadata([Remote("fashion.json", f"{server.url}/metadata/fashion.json", root / "fashion.json")], root)


def test_metadata_is_fetched_once_and_its_hash_is_noted(server: PhotoServer, metadata: Metadata) -> None:
    assert downloader().metadata(metadata.files, metadata.root) == ["fashion.json"]
    assert downloader().metadata(metadata.files, metadata.root) == ["fashion.json"]
    assert server.answers["metadata"] == 1
    noted = json.loads((metadata.root / "fetched.json").read_text())["fashion.json"]
    assert noted["sha256"] == hashlib.sha256(b'{"product": 1}\n').hexdigest()
    assert noted["url"] == metadata.files[0].url


def test_a_checksum_mismatch_is_named(metadata: Metadata) -> None:
    wrong = [metadata.files[0]._replace(sha256="0" * 64)]
    for _ in range(2):
        with pytest.raises(InputError, match=r"fashion\.json: checksum mismatch: sha256 [0-9a-f]{64}, expected 0000"):
            downloader().metadata(wrong, metadata.root)
        assert not (metadata.root / "fashion.json").exists()
    (metadata.root / "fashion.json").write_text("{}")
    with pytest.raises(InputError, match=r"fashion\.json: checksum mismatch: sha256 [0-9a-f]{64}, expected 0000"):
        downloader().metadata(wrong, metadata.root)


def test_metadata_that_changed_since_it_was_fetched_is_refused(metadata: Metadata) -> None:
    downloader().metadata(metadata.files, metadata.root)
    (metadata.root / "fashion.json").write_text("{}")
    with pytest.raises(InputError, match="checksum mismatch"):
        downloader().metadata(metadata.files, metadata.root)


def test_each_metadata_file_is_noted_even_if_the_next_one_fails(server: PhotoServer, metadata: Metadata) -> None:
    missing = Remote("more.json", "http://127.0.0.1:9/more.json", metadata.root / "more.json")
    with pytest.raises(InputError, match=r"more\.json"):
        downloader(retries=0).metadata([*metadata.files, missing], metadata.root)
    assert downloader().metadata(metadata.files, metadata.root) == ["fashion.json"]


def test_metadata_of_the_user_is_neither_fetched_nor_claimed(server: PhotoServer, metadata: Metadata) -> None:
    metadata.root.mkdir()
    (metadata.root / "fashion.json").write_text("mine")
    assert downloader().metadata(metadata.files, metadata.root) == []
    assert server.answers["metadata"] == 0
    assert (metadata.root / "fashion.json").read_text() == "mine"


def test_metadata_that_is_not_to_be_had_says_where_to_put_it(tmp_path: Path) -> None:
    files = [Remote("fashion.json", "http://127.0.0.1:9/fashion.json", tmp_path / "fashion.json")]
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/fashion\.json.*put fashion\.json into"):
        downloader(retries=0).metadata(files, tmp_path)


@pytest.mark.parametrize("options", [{"connections": 0}, {"timeout": 0}, {"retries": -1}, {"requests_per_second": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        downloader(**options)
