"""A model of the Hugging Face hub: its listing through `huggingface_hub`, its bytes through our own resuming download.

Only what a model needs is fetched: safetensors that will be read, JSON, tokenizer, card and licence, never a pickle
and no code. Each file is verified by the hash in the hub's listing. (The hub's own client begins a file anew when it
was interrupted.)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cadran.errors import UserError
from cadran.library.download import Remote, download
from cadran.library.origin import Fetched
from cadran.library.progress import Progress
from cadran.library.vetting import is_companion, only_pickles
from cadran.model.weight_files import INDEX, SINGLE, is_plain, shard_names
from cadran.wheel import Unreachable

_PATIENCE = 30.0  # seconds for an answer of the hub


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model at one commit.

    Attributes:
        revision: the commit.
        licence: as its card names it.
        files: all of them; names in folders are kept apart from ours by their "/".
    """

    revision: str
    licence: str | None
    files: tuple[Remote, ...]


class HubClient(Protocol):
    """What is needed of a hub."""

    def snapshot(self, repository: str, revision: str | None) -> Snapshot:
        """The listing of a model.

        Raises:
            UserError: there is no such model or revision, or it may not be read.
            Unreachable: the hub does not answer.
        """


@dataclass(frozen=True, slots=True)
class HubOrigin:
    """A model on the hub.

    Attributes:
        repository: "organisation/name".
        revision: commit, tag or branch; None means the main branch.
        file: one GGUF file of it instead of the safetensors.
        client: the hub.
        pause: seconds before a second attempt.
    """

    repository: str
    revision: str | None = None
    file: str | None = None
    client: HubClient = field(default_factory=lambda: HuggingFaceHub(), compare=False)
    pause: float = 1.0

    @property
    def text(self) -> str:
        """As it is typed."""
        file = f"/{self.file}" if self.file else ""
        return f"hf:{self.repository}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def default_name(self) -> str:
        """The model's name without its organisation, or the file's without its ending."""
        return self.file.removesuffix(".gguf") if self.file else self.repository.rpartition("/")[2]

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """See `Origin.fetch`."""
        snapshot = self.client.snapshot(self.repository, self.revision)
        files = {remote.name: remote for remote in snapshot.files if is_plain(remote.name)}
        small = self._companions(files)
        total = sum(remote.bytes or 0 for remote in [*small, *_possible_weights(files, self.file)])
        done = 0
        for batch in (small, self._weights(files, folder)):
            for remote in batch:
                path = download(remote, folder, _beyond(done, total, progress), self.pause)
                done += path.stat().st_size
        # Whatever else lies here is of an earlier commit.
        wanted = {remote.name for remote in [*small, *self._weights(files, folder)]}
        for path in folder.iterdir():
            if not path.name.startswith(".") and path.name not in wanted:
                path.unlink()
        verified = {name: files[name].sha256 for name in wanted}
        return Fetched(snapshot.revision, snapshot.licence, {name: sha for name, sha in verified.items() if sha})

    def _companions(self, files: dict[str, Remote]) -> list[Remote]:
        if self.file:
            if self.file not in files:
                raise UserError(
                    f"{self.repository} has no {self.file}: it has {_some(_ggufs(files)) or 'no .gguf file'}"
                )
            return []
        if "config.json" in files and (SINGLE in files or INDEX in files):
            extra = [] if SINGLE in files else [files[INDEX]]
            return [remote for name, remote in sorted(files.items()) if is_companion(name)] + extra
        if ggufs := _ggufs(files):
            raise UserError(
                f"{self.repository} holds GGUF files: choose one with hf:{self.repository}/FILE, FILE being one of "
                f"{_some(ggufs)}"
            )
        raise only_pickles(list(files)) or UserError(
            f"{self.repository} holds no config.json with {SINGLE}: choose another model"
        )

    def _weights(self, files: dict[str, Remote], folder: Path) -> Iterator[Remote]:
        """What holds the weights; to be asked when the index is here."""
        if self.file:
            yield files[self.file]
        elif SINGLE in files:
            yield files[SINGLE]
        else:
            for name in shard_names(folder / INDEX):
                if name not in files:
                    raise UserError(f"{self.repository} lacks {name}, which its index names: choose another model")
                yield files[name]


def _beyond(before: int, total: int, progress: Progress) -> Progress:
    """Progress of one file as that of all of them."""
    return lambda name, done, _: progress(name, before + done, total or None)


def _possible_weights(files: dict[str, Remote], file: str | None) -> list[Remote]:
    """About what will be fetched, before the index is known: for the progress bar."""
    if file or SINGLE in files:
        return [files[file or SINGLE]] if (file or SINGLE) in files else []
    return [remote for name, remote in files.items() if name.startswith("model-") and name.endswith(".safetensors")]


def _ggufs(files: dict[str, Remote]) -> list[str]:
    return sorted(name for name in files if name.endswith(".gguf"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


class HuggingFaceHub:
    """The hub that `huggingface_hub` is configured for, with the user's token if there is one.

    Args:
        endpoint: another address than the configured one.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def snapshot(self, repository: str, revision: str | None) -> Snapshot:
        """See `HubClient.snapshot`."""
        from huggingface_hub import HfApi, constants, get_token, hf_hub_url

        api = HfApi(endpoint=self._endpoint)
        try:
            info = api.model_info(repository, revision=revision, files_metadata=True, timeout=_PATIENCE)
        except Exception as error:  # the client's HTTP library has changed before: its errors go by behaviour
            raise _explained(error, repository, revision) from error
        if not info.sha:
            raise UserError(f"the hub names no commit of {repository}: choose another model")
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        files = []
        for sibling in info.siblings or []:
            large: Mapping[str, Any] = sibling.lfs or {}
            url = hf_hub_url(repository, sibling.rfilename, revision=info.sha, endpoint=self._endpoint)
            remote = Remote(sibling.rfilename, url, sibling.size, large.get("sha256"), sibling.blob_id, headers)
            if remote.bytes is not None and remote.wanted is not None:
                files.append(replace(remote, git_blob=None) if remote.sha256 else remote)
        return Snapshot(info.sha, _licence(info.card_data), tuple(files))


def _licence(card: Any) -> str | None:
    value = getattr(card, "license", None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) if value else None


def _explained(error: Exception, repository: str, revision: str | None) -> UserError:
    """The sentence for what the hub's client raised."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds:
        return UserError(
            f"{repository} is shown to those who accept its terms: do so on its page, then run `hf auth login` and the "
            "same command again"
        )
    if "RevisionNotFoundError" in kinds:
        return UserError(f"{repository} has no revision {revision}: correct what follows the @")
    if "RepositoryNotFoundError" in kinds or status in (401, 403, 404):
        return UserError(
            f"there is no model {repository} on the hub, or it is private: correct it or run `hf auth login`"
        )
    if "HFValidationError" in kinds:
        return UserError(f"{repository!r} is no name of a model on the hub: write hf:ORGANISATION/NAME")
    if "OfflineModeIsEnabled" in kinds:
        return Unreachable(f"{repository} cannot be fetched because HF_HUB_OFFLINE is set: unset it")
    if isinstance(error, OSError | TimeoutError) or "TransportError" in kinds or status is not None:
        return Unreachable(
            f"the hub could not be reached for {repository}: check the network, then type the same command again"
        )
    raise error
