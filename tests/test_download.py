import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import image_id, save_image
from filelock import FileLock
from photo_server import Faults, PhotoServer, share

from ctl_lightning.data import download
from ctl_lightning.data.download import Downloader, Remote
from ctl_lightning.errors import InputError

IDS = [image_id(f"photo{n}") for n in range(120)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.01)


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
    server.faults = Faults(0.10, 0.02, 0.05, 0.05, 0.05, gone=0.05, seconds=1.0)
    report = downloader().images(remotes(server, tmp_path), tmp_path)
    gone = {name for name in IDS if server.is_gone(name)}
    assert 0 < len(gone) < 20
    assert arrived(tmp_path) == {name: body for name, body in arrived(server.images).items() if name not in gone}
    assert dead(tmp_path) == report.dead == dict.fromkeys(sorted(gone), "404 Not Found")
    assert report.fetched == len(IDS) - len(gone)
    assert report.retries >= sum(server.answers[kind] for kind in ("503", "page", "truncated"))
    assert {"503", "page", "truncated", "slow", "200", "404"} <= server.answers.keys()
    assert all(server.asked[name] == 1 for name in gone)  # a 404 is not asked for again
    assert "retries" in str(report)
    assert not list(tmp_path.glob(".*"))


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
    assert report.dead == dict.fromkeys(IDS[:3], "not an image")
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
        InputError, match=r"127\.0\.0\.1.*no answer within 0\.1 s; so it was for the last 8 files, each tried 2"
    ):
        downloader(timeout=0.1, retries=1).images(remotes(server, tmp_path), tmp_path)
    assert time.monotonic() - began < 5


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    nobody = PhotoServer(tmp_path, url="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9.*run the command again when the server answers"):
        downloader(retries=0).images(remotes(nobody, tmp_path), tmp_path)


def test_a_server_that_refuses_us_kills_no_ids(
    server: PhotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "REFUSED_IN_A_ROW", 10)
    server.always = dict.fromkeys(IDS, 403)
    with pytest.raises(InputError, match=r"refused 10 files in a row.*fewer download\.connections"):
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


def test_addresses_that_are_none(server: PhotoServer, tmp_path: Path) -> None:
    files = [
        Remote("word", "nonsense", tmp_path / "word.jpg"),
        Remote("ftp", "ftp://127.0.0.1/a.jpg", tmp_path / "ftp.jpg"),
        *remotes(server, tmp_path, IDS[:3]),
        Remote("host", "http://no-such-host.invalid/a.jpg", tmp_path / "host.jpg"),
    ]
    report = downloader(connections=1, retries=0).images(files, tmp_path)
    assert report.dead == {"word": "not an address", "ftp": "not an address", "host": "no such host"}


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
import sys
from pathlib import Path
from ctl_lightning.data import download
from ctl_lightning.data.download import Downloader, Remote
download.BACKOFF = 0.01
url, root, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
files = [
    Remote(n, f"{url}/400x/{n[:2]}/{n[2:4]}/{n[4:6]}/{n}.jpg", root / "images" / n[:2] / f"{n}.jpg") for n in names
]
print("begins", flush=True)
Downloader(4, 150, 0.5, 6, False, False).images(files, root)
"""


def test_a_download_that_is_killed_again_and_again_ends_with_the_same_bytes(
    server: PhotoServer, tmp_path: Path
) -> None:
    server.faults = Faults(0.10, 0.0, 0.05, 0.05, 0.0, gone=0.05)
    downloader().images(remotes(server, tmp_path / "once"), tmp_path / "once")
    command = [sys.executable, "-c", FETCH, server.url, str(tmp_path / "killed"), *IDS]
    moments = random.Random(0)
    sizes = []
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.05, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        sizes.append(len(arrived(tmp_path / "killed" / "images")))
    subprocess.run(command, check=True, capture_output=True)
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
    with pytest.raises(InputError, match=r"fashion\.json: checksum mismatch: sha256 [0-9a-f]{64}, expected 0000"):
        downloader().metadata(wrong, metadata.root)


def test_metadata_that_changed_since_it_was_fetched_is_refused(metadata: Metadata) -> None:
    downloader().metadata(metadata.files, metadata.root)
    (metadata.root / "fashion.json").write_text("{}")
    with pytest.raises(InputError, match="checksum mismatch"):
        downloader().metadata(metadata.files, metadata.root)


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
