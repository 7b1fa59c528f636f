"""
A small Hub on this machine: the endpoints that huggingface_hub calls to make a repository, to push into it and to
download from it, in memory, and with faults on request. Large files go the way of Git LFS, so that its users set
`HF_HUB_DISABLE_XET=1`.

    with HubServer() as hub:
        subprocess.run([...], env=hub.environment(tmp_path / "cache"))
        hub.files("ann/corrector")

Not a test file. What each endpoint takes and gives is read off the client.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "the-token-of-ann"
OWNER = "ann"
LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    """One repository: its commits, each all files by path."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("Initial commit", {})])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    @property
    def commit_id(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class HubServer:
    """
    Serves on a free port while it is entered.

    Attributes:
        repositories: By name.
        requests: Method and path of every request.
        uploads_to_break: How many uploads of large files, from now on, are cut off in the middle.
        commits_to_refuse: How many commits, from now on, are answered with `refusal`.
        refusal: The status of that answer.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploads_to_break = 0
        self.commits_to_refuse = 0
        self.refusal = 503

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a process that takes this for the Hub."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {**inherited, **own, **({"HF_TOKEN": token} if token else {})}

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a repository as they stand."""
        return self.repositories[name].files

    def add(self, name: str, folder: Path) -> None:
        """Puts a folder into a repository, without a push."""
        files = {
            place.relative_to(folder).as_posix(): place.read_bytes() for place in folder.rglob("*") if place.is_file()
        }
        self.repositories.setdefault(name, Repository()).commits.append(("Add", files))

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take_break(self) -> bool:
        """Whether this upload is to be cut off."""
        self.uploads_to_break -= 1
        return self.uploads_to_break >= 0

    def take_refusal(self) -> bool:
        """Whether this commit is to be refused."""
        self.commits_to_refuse -= 1
        return self.commits_to_refuse >= 0


def blob_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def object_id(path: str, content: bytes) -> str:
    """The id that tells whether a file has changed: of a large one its SHA-256."""
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else blob_id(content)


def metadata_problems(card: str) -> list[str]:
    """What is wrong with the metadata of a card, of what the Hub documents."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if match is None:
        return ["no metadata"]
    data = yaml.safe_load(match[1])
    problems = [
        f"{key} must be a text"
        for key in ("library_name", "pipeline_tag", "license")
        if not isinstance(data.get(key, ""), str)
    ]
    problems += [
        f"{key} must be a text or a list of texts" for key in ("tags", "datasets") if not _is_texts(data.get(key, []))
    ]
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "x")):
        problems.append(f"base_model must be the name of a model, got {data['base_model']!r}")
    if data.get("base_model_relation", "adapter") not in ("adapter", "finetune", "merge", "quantized"):
        problems.append("base_model_relation is not known")
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not {"type"} <= set(result["task"]) or not {"type", "name"} <= set(result["dataset"]):
                problems.append("a result needs a task and a dataset")
            problems += [
                "a metric needs type and value" for metric in result["metrics"] if not {"type", "value"} <= set(metric)
            ]
    return problems


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _make_handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def answer(self) -> None:
            self.path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, self.path))
            if self.command == "PUT":
                self.take_large()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            for pattern, method, respond in routes:
                match = re.fullmatch(pattern, self.path)
                if match and self.command in method.split():
                    respond(self, body, *match.groups())
                    return
            self.send_json(404, {"error": f"no route {self.path}"})

        # Answers

        def send_json(self, status: int, content: Any, headers: Mapping[str, str] = {}) -> None:
            self.send_bytes(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})

        def send_bytes(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def is_owner(self) -> bool:
            """Whether it is the owner who asks; otherwise refuses."""
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return True
            self.send_json(401, {"error": "Invalid credentials in Authorization header"})
            return False

        def find(self, name: str) -> Repository | None:
            """The repository, if it may be seen; otherwise says that there is none."""
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
                self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return None
            return repository

        # Writing

        def create(self, body: bytes) -> None:
            if not self.is_owner():
                return
            request = json.loads(body)
            name = f"{request.get('organization') or OWNER}/{request['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, Repository(private=request.get("visibility") == "private"))
            self.send_json(status, {"url": f"{hub.url}/{name}", "name": name})

        def validate(self, body: bytes) -> None:
            problems = metadata_problems(json.loads(body)["content"])
            self.send_json(
                400 if problems else 200, {"errors": [{"message": text} for text in problems], "warnings": []}
            )

        def preupload(self, body: bytes, name: str, revision: str) -> None:
            if self.is_owner() and (repository := self.find(name)):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": object_id(file["path"], repository.files[file["path"]])
                        if file["path"] in repository.files
                        else None,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.send_json(200, {"files": files})

        def batch(self, body: bytes, name: str) -> None:
            if self.is_owner():
                objects = json.loads(body)["objects"]
                for item in objects:
                    if item["oid"] not in hub.large:
                        item["actions"] = {"upload": {"href": f"{hub.url}/large/{item['oid']}"}}
                self.send_json(200, {"objects": objects, "transfer": "basic"})

        def take_large(self) -> None:
            size = int(self.headers["Content-Length"])
            if hub.take_break():
                self.rfile.read(size // 2)
                self.connection.close()
                self.close_connection = True
                return
            content = self.rfile.read(size)
            key = self.path.rpartition("/")[2]
            assert hashlib.sha256(content).hexdigest() == key
            hub.large[key] = content
            self.send_json(200, {})

        def commit(self, body: bytes, name: str, revision: str) -> None:
            if not self.is_owner() or (repository := self.find(name)) is None:
                return
            if hub.take_refusal():
                self.send_json(hub.refusal, {"error": "refused, as the test wants"})
                return
            files, message = dict(repository.files), ""
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    message = value["summary"]
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            repository.commits.append((message, files))
            self.send_json(
                200, {"commitUrl": f"{hub.url}/{name}/commit/{repository.commit_id}", "commitOid": repository.commit_id}
            )

        # Reading

        def info(self, body: bytes, name: str, revision: str | None = None) -> None:
            if repository := self.find(name):
                card = re.match(r"---\n(.*?)\n---\n", repository.files.get("README.md", b"").decode(), re.DOTALL)
                info = {
                    "id": name,
                    "sha": repository.commit_id,
                    "private": repository.private,
                    "siblings": [{"rfilename": path} for path in repository.files],
                    "cardData": yaml.safe_load(card[1]) if card else None,
                }
                self.send_json(200, info)

        def tree(self, body: bytes, name: str, revision: str, folder: str | None = None) -> None:
            if folder is not None:  # none of ours has any
                self.send_json(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
            elif repository := self.find(name):
                files = [
                    {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
                    for path, content in repository.files.items()
                ]
                self.send_json(200, files)

        def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
            if (repository := self.find(name)) is None:
                return
            if path not in repository.files:
                self.send_json(
                    404,
                    {"error": "Entry not found"},
                    {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit_id},
                )
                return
            content = repository.files[path]
            headers = {"X-Repo-Commit": repository.commit_id, "ETag": f'"{object_id(path, content)}"'}
            self.send_bytes(200, content, {"Content-Type": "application/octet-stream", **headers})

        def log_message(self, *arguments: object) -> None:
            pass

    name = r"([\w.-]+/[\w.-]+)"
    routes = (
        (r"/api/repos/create", "POST", Handler.create),
        (r"/api/validate-yaml", "POST", Handler.validate),
        (rf"/api/models/{name}/preupload/(.+)", "POST", Handler.preupload),
        (rf"/{name}\.git/info/lfs/objects/batch", "POST", Handler.batch),
        (rf"/api/models/{name}/commit/(.+)", "POST", Handler.commit),
        (rf"/api/models/{name}", "GET", Handler.info),
        (rf"/api/models/{name}/revision/(.+)", "GET", Handler.info),
        (rf"/api/models/{name}/tree/([^/]+)(?:/(.+))?", "GET", Handler.tree),
        (rf"/{name}/resolve/([^/]+)/(.+)", "GET HEAD", Handler.resolve),
    )
    return Handler


def address_of_nobody() -> str:
    """An address where nothing listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_port}"
