"""What is fetched from the Hub and pushed to it goes by one stand-in on 127.0.0.1; what goes wrong there is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import OWNER, Hub, hub

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.hub import HubModel, check_login

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
NAME = f"{OWNER}/looks"

FETCH = "from ctl_lightning.runtime.hub import *; print(fetched(HubModel.named(Path(sys.argv[1])), ['config.json', 'model.safetensors']))"
PUSH = "from ctl_lightning.runtime.hub import *; check_login(sys.argv[2]); print(pushed(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == 'private', ['config.json', 'model.safetensors']))"


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as found:
        yield found


def said(code: str, environment: dict[str, str], *words: str) -> str:
    """What a fresh process prints last: the Hub's library reads the environment when it is imported."""
    guarded = f"import sys\nfrom ctl_lightning.runtime.errors import InputError\ntry:\n  {code}\nexcept InputError as error:\n  print('refused:', error)"
    run = subprocess.run(
        [sys.executable, "-c", guarded, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hf://owner/name", HubModel("owner/name", None)),
        ("hf:/owner/name", HubModel("owner/name", None)),
        ("hf://owner/na.me-1@v1.0", HubModel("owner/na.me-1", "v1.0")),
        ("hf://owner/name@refs/pr/1", HubModel("owner/name", "refs/pr/1")),
        ("runs/hf:/owner/name", None),
        ("owner/name", None),
        ("hf", None),
    ],
)
def test_a_path_names_a_model_of_the_hub_although_it_loses_a_slash(path: str, expected: HubModel | None) -> None:
    assert HubModel.named(Path(path)) == expected


@pytest.mark.parametrize(
    "path",
    ["hf://name", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@../../c", "hf://a/b@x/../../c", "hf://a b/c"],
)
def test_what_only_begins_like_one_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION"):
        HubModel.named(Path(path))


def test_what_is_pushed_is_fetched_and_again_without_a_network(server: Hub, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for name, content in (FILES | {"notes.txt": b"mine"}).items():
        (made / name).write_bytes(content)
    environment = server.environment(tmp_path / "home")
    assert said(PUSH, environment, str(made), NAME, "public") == f"{server.address}/{NAME}"
    assert next(iter(server.revisions[NAME].values())) == FILES, "and no file that was not named"
    folder = Path(said(FETCH, environment, f"hf://{NAME}"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    first = server.commit(NAME, {"config.json": b'{"newer": 1}', "evil.bin": b"pickle"})
    newer = Path(said(FETCH, environment, f"hf://{NAME}"))
    assert (newer / "config.json").read_bytes() == b'{"newer": 1}'
    assert {path.name for path in newer.iterdir()} == {*FILES}, "and no file that is not asked for"
    assert said(FETCH, environment, f"hf://{NAME}@{folder.name}") == str(folder)
    assert first == newer.name
    assert said(FETCH, environment | {"HF_HUB_OFFLINE": "1"}, f"hf://{NAME}") == str(newer)


def test_a_private_model_is_private_and_a_second_push_is_a_commit(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    environment = server.environment(tmp_path / "home")
    for content in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert said(PUSH, environment, str(tmp_path), NAME, "private") == f"{server.address}/{NAME}"
    assert [commit["model.safetensors"] for commit in server.revisions[NAME].values()] == [b"one", b"two"]
    stranger = server.environment(tmp_path / "other", login=False)
    assert said(FETCH, stranger, f"hf://{NAME}").startswith(
        f"refused: hf://{NAME}: there is no such model at {server.address}"
    )


def test_what_goes_wrong_is_one_line_that_says_how_to_go_on(server: Hub, tmp_path: Path) -> None:
    environment = server.environment(tmp_path / "home")
    server.commit(NAME, FILES)
    found = said(FETCH, environment, "hf://tester/nothing")
    assert "hf://tester/nothing: there is no such model" in found
    assert "hf auth login" in found
    found = said(FETCH, environment, f"hf://{NAME}@v9")
    assert f"hf://{NAME}@v9: there is no such revision" in found
    found = said(PUSH, environment, str(tmp_path), "somebody/looks", "public")
    assert "hub=somebody/looks:" in found
    assert "a token that may write there" in found
    found = said(PUSH, server.environment(tmp_path / "home", login=False), str(tmp_path), NAME, "public")
    assert found == f"refused: hub={NAME}: nobody is logged in; run `hf auth login`, or set HF_TOKEN"


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with hub() as gone:
        environment = gone.environment(tmp_path / "home")
    found = said(FETCH, environment, f"hf://{NAME}")
    assert f"hf://{NAME}: {gone.address} cannot be reached, and it was not fetched before" in found
    found = said(PUSH, environment, str(tmp_path), NAME, "public")
    assert found == f"refused: hub={NAME}: {gone.address} cannot be reached; try again with a network"


@pytest.mark.parametrize("name", ["looks", "a/b/c", "../x", "a/b@c", "https://huggingface.co/a/b"])
def test_a_name_that_is_none_is_refused_before_anything_else(name: str) -> None:
    with pytest.raises(InputError, match=r"hub=.*: expected OWNER/NAME"):
        check_login(name)
