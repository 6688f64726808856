"""A stand-in for the Hugging Face Hub on 127.0.0.1: repositories of models, one login, what is pushed can be fetched."""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_atestingtoken"
OWNER = "tester"
"""Whose login TOKEN is; it may write to repositories of this owner alone."""


class Hub(ThreadingHTTPServer):
    """Repositories and what was asked for.

    Attributes:
        revisions: "OWNER/NAME" -> commit -> file name -> content; the last commit is the main branch.
        private: repositories that need the login.
        uploads: hash -> content of a large file that was uploaded and not yet committed.
        asked: "METHOD path" of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, home: Path, login: bool = True) -> dict[str, str]:
        """Environment of a program that takes this server for the Hub."""
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return plain | own | ({"HF_TOKEN": TOKEN} if login else {})

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Adds a commit with these files beside those of the one before, and returns its name."""
        commits = self.revisions.setdefault(repository, {})
        before = next(reversed(commits.values()), {})
        name = hashlib.sha1(repr((len(commits), sorted(files))).encode()).hexdigest()
        commits[name] = before | files
        return name


class Handler(BaseHTTPRequestHandler):
    """Answers as huggingface_hub 2.4 needs it."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._send({"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(content), known)
        if parts[0] == "lfs":
            self.server.uploads[parts[1]] = content
            return self._send({})
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(content), known)
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repository not in self.server.revisions or (repository in self.server.private and not known):
            return self._refuse(404 if known else 401, "RepoNotFound", "Repository Not Found")
        action, revision, *rest = [*(parts[4:] if parts[0] == "api" else parts[2:]), "", "main"][:2] + parts[4:]
        if action in ("preupload", "commit") and not (known and repository.startswith(f"{OWNER}/")):
            return self._refuse(403, None, "this token may not write here")
        if action == "preupload":
            return self._send({"files": [self._mode(one["path"]) for one in json.loads(content)["files"]]})
        if action == "commit":
            return self._commit(repository, content)
        commits = self.server.revisions[repository]
        newest = next(reversed(commits), "")
        name = newest if revision in ("", "main") else revision
        if name not in commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if action in ("", "revision"):
            files = [{"rfilename": file} for file in commits.get(name, {})]
            return self._send({"id": repository, "sha": name, "private": False, "siblings": files, "tags": []})
        if action == "tree":
            return self._send([self._entry(file, data) for file, data in commits[name].items()])
        return self._file(name, commits[name].get(rest[-1]))

    def _create(self, asked: dict[str, str], known: bool) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if not known:
            return self._refuse(401, None, "Invalid username or password.")
        if asked["organization"] != OWNER:
            return self._refuse(403, None, f"You don't have the rights to create a model under {asked['organization']}")
        if repository in self.server.revisions:
            return self._refuse(
                409, None, "You already created this model repo", url=f"{self.server.address}/{repository}"
            )
        self.server.revisions[repository] = {}
        if asked.get("visibility") == "private":
            self.server.private.add(repository)
        self._send({"url": f"{self.server.address}/{repository}"})

    def _mode(self, path: str) -> dict[str, object]:
        return {
            "path": path,
            "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }

    def _batch(self, asked: dict[str, list[dict[str, object]]], known: bool) -> None:
        if not known:
            return self._refuse(401, None, "no login")
        objects = [
            one | {"actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, content: bytes) -> None:
        files = {}
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads.pop(value["oid"])
        name = self.server.commit(repository, files)
        self._send(
            {"commitUrl": f"{self.server.address}/{repository}/commit/{name}", "commitOid": name, "success": True}
        )

    def _entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": len(data),
            "oid": hashlib.sha1(data).hexdigest(),
        }
        if path.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _file(self, commit: str, data: bytes | None) -> None:
        if data is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str | None, message: str, **more: str) -> None:
        data = json.dumps({"error": message} | more).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub() -> Iterator[Hub]:
    """The server, while the block runs."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
