"""Fetches files of a model from the Hugging Face Hub, and pushes a folder to it; what goes wrong there is one line."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from ctl_lightning.runtime.errors import InputError, listed

REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"

ON_HUB = re.compile(rf"hf:/+({REPOSITORY}?)(?:@([\w.-]+(?:/[\w.-]+)*))?")
"""hf://OWNER/NAME or hf://OWNER/NAME@REVISION; of "//" a Path keeps one."""


class HubModel(NamedTuple):
    """A model on the Hub.

    Attributes:
        repository: "OWNER/NAME".
        revision: branch, tag or commit; None: the main branch.
    """

    repository: str
    revision: str | None

    @classmethod
    def named(cls, path: Path) -> "HubModel | None":
        """The model that a path such as hf://OWNER/NAME@REVISION means; None: it is a path of this machine.

        Raises:
            InputError: it begins with hf: and goes on otherwise.
        """
        text = path.as_posix()
        if not text.startswith("hf:/"):
            return None
        found = ON_HUB.fullmatch(text)
        if found is None or ".." in (found[2] or "").split("/"):
            raise InputError(f"{text}: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"hf://{self.repository}{f'@{self.revision}' if self.revision else ''}"


def fetched(model: HubModel, files: Sequence[str]) -> Path:
    """The folder in the Hub's cache with these files of a model; what is there already is not fetched again.

    Without a network, what was fetched before is taken. HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are respected.

    Raises:
        InputError: no such model or revision, no rights, no network.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(str(model)):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=list(files)))


def check_login(repository: str) -> None:
    """Raises InputError: no name of a repository; nobody is logged in."""
    if not re.fullmatch(REPOSITORY, repository):
        raise InputError(f"hub={repository}: expected OWNER/NAME, in letters, digits and . _ -")
    from huggingface_hub import get_token

    if get_token() is None:
        raise InputError(f"hub={repository}: nobody is logged in; run `hf auth login`, or set HF_TOKEN")


def fetched_file(address: str, usual: Sequence[str], beside: Collection[str]) -> Path:
    """A file of a model in the Hub's cache; what is there already is not fetched again, and without a network is taken.

    Args:
        address: hf://OWNER/NAME, or hf://OWNER/NAME/FILE.
        usual: names of files, the first of which that is there is fetched, if the address names none.
        beside: names of files that are fetched too, if they are there.

    Raises:
        InputError: an address of another form, no such model or file, no rights, no network.
    """
    found = re.fullmatch(rf"hf://({REPOSITORY})(?:/([\w.-]+(?:/[\w.-]+)*))?", address)
    if found is None or ".." in (found[2] or "").split("/"):
        raise InputError(f"{address}: expected hf://OWNER/NAME or hf://OWNER/NAME/FILE")
    repository, named = found.groups()
    from huggingface_hub import hf_hub_download

    with hub_errors(address):
        files, cut_off = _files_of(repository)
        chosen = named if named in files else next((name for name in usual if name in files and named is None), None)
        if chosen is not None:
            for name in sorted({*beside} & {*files}):
                hf_hub_download(repository, name, local_files_only=cut_off)
            return Path(hf_hub_download(repository, chosen, local_files_only=cut_off))
    raise InputError(f"{address}: there is no {named or ', '.join(usual)} in it; its files are {listed(files)}")


def _files_of(repository: str) -> tuple[list[str], bool]:
    """Names of the files of a repository, and whether they are those in the cache because there is no network."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        # Not `list_repo_files`, which tries for half a minute to reach a Hub that is not there.
        found = HfApi(library_name="ctl_lightning").model_info(repository)
        return [one.rfilename for one in found.siblings or []], False
    except Exception as error:  # which HTTP library raises differs from release to release
        cut_off = isinstance(error, (OfflineModeIsEnabled, ConnectionError)) or _is_of_network(error)
        if isinstance(error, HfHubHTTPError) or not cut_off:  # the Hub has answered
            raise
        try:
            folder = Path(snapshot_download(repository, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], True


def pushed(folder: Path, repository: str, private: bool, files: Sequence[str]) -> str:
    """Pushes files of a folder to a repository of models, which is made if there is none, in one commit.

    Args:
        folder: folder with the files.
        repository: "OWNER/NAME".
        private: whether a new repository is private; False: it is what the account's new ones are.
        files: names of the files.

    Returns:
        Address of the repository.

    Raises:
        InputError: not logged in, no rights, no network.
    """
    from huggingface_hub import HfApi

    with hub_errors(f"hub={repository}"):
        hub = HfApi(library_name="ctl_lightning")
        made = hub.create_repo(repository, private=private or None, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Publish a model of ctl_lightning",
        )
    return str(made)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns every error of the Hub in this block into one line that begins with `what`."""
    try:
        yield
    except Exception as error:  # which HTTP library raises differs from release to release
        _refuse(what, error)


def _refuse(what: str, error: Exception) -> NoReturn:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = " ".join(str(error).split())[:200]
    place = constants.ENDPOINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        why = f"its owner asks for consent; give it at {place}, and log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        why = f"there is no such revision at {place}; leave it out for the newest"
    elif isinstance(error, RepositoryNotFoundError):
        why = f"there is no such model at {place}, or it is private; check the name, or log in with `hf auth login`"
    elif status in (401, 403):
        why = f"{place} refuses this login ({said}); log in with `hf auth login` and a token that may write there"
    elif status is not None:
        why = f"{place} answers {status} ({said}); try again later"
    elif isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)) or _is_of_network(error):
        why = f"{place} cannot be reached, and it was not fetched before; give a folder, or try again with a network"
        if what.startswith("hub="):
            why = f"{place} cannot be reached; try again with a network"
    else:
        why = f"{type(error).__name__}: {said}"
    raise InputError(f"{what}: {why}") from None


def _is_of_network(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0].startswith("http") for kind in type(error).__mro__)
