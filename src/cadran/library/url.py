"""A GGUF file at an address, verified by its sha256."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from cadran.errors import UserError
from cadran.library.download import Remote, check_address, download
from cadran.library.origin import Fetched
from cadran.library.progress import Progress
from cadran.model.weight_files import is_plain
from cadran.wheel import is_sha256


@dataclass(frozen=True, slots=True)
class UrlOrigin:
    """A file at an address.

    Attributes:
        url: without the fragment.
        sha256: of the file.
        pause: seconds before a second attempt.
    """

    url: str
    sha256: str
    pause: float = 1.0

    @property
    def text(self) -> str:
        """The address without its query, which may hold a key, and the hash."""
        return f"{self.url.partition('?')[0]}#sha256={self.sha256}"

    @property
    def default_name(self) -> str:
        """The file's name without its ending."""
        return PurePosixPath(self._file).stem

    @property
    def _file(self) -> str:
        return unquote(PurePosixPath(urlsplit(self.url).path).name)

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """See `Origin.fetch`."""
        name = self._file if is_plain(self._file) and self._file.endswith(".gguf") else "model.gguf"
        path = download(Remote(name, self.url, sha256=self.sha256), folder, progress, self.pause)
        return Fetched(sha256={path.name: self.sha256})


def parse_url(text: str) -> UrlOrigin:
    """The origin that an address with a fragment ``#sha256=...`` means.

    Raises:
        UserError: the address is refused, or has no hash.
    """
    url, _, fragment = text.partition("#")
    check_address(url)
    sha256 = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or not is_sha256(sha256):
        raise UserError(
            "an address is pulled only with the sha256 of its file: add #sha256= and the 64 digits that its publisher "
            "gives (or that `sha256sum FILE` prints for a copy you trust)"
        )
    return UrlOrigin(url, sha256)
