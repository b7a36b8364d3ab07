"""The weights of a model as a mapping that reads a tensor when it is asked for: one is in memory at a time."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cadran.errors import UserError
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.weight_files import weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from cadran.model.gguf.translate import GgufModel


class LazyWeights(Mapping[str, "Tensor"]):
    """The tensors of a model directory; one is in memory for as long as the caller keeps it.

    Args:
        folder: with safetensors.

    Raises:
        UserError: a file is missing or damaged, or a name stands in two of them.
    """

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, SafetensorsFile] = {}
        with ExitStack() as stack:
            for path in weight_files(folder):
                file = stack.enter_context(SafetensorsFile(path))
                if double := self._places.keys() & file.entries.keys():
                    raise UserError(f"{min(double)[:80]} stands in two of the files in {folder}: fetch the model again")
                self._places |= dict.fromkeys(file.entries, file)
            self._open = stack.pop_all()

    def __getitem__(self, name: str) -> "Tensor":
        return self._places[name].read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # a mapping's own way would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> "LazyWeights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


class StreamedWeights(Mapping[str, "Tensor"]):
    """The tensors of a GGUF file by their names in a Hugging Face checkpoint.

    They come in the order of ``weight_names``; one that is asked for out of turn costs a pass over the file.

    Args:
        model: stays open for as long as this is used.
    """

    def __init__(self, model: "GgufModel") -> None:
        self._model, self._names = model, dict.fromkeys(model.weight_names())
        self._stream = model.weights()

    def __getitem__(self, name: str) -> "Tensor":
        if name in self._names:
            for _ in range(2):  # what is left of this pass, then a whole one
                for found, tensor in self._stream:
                    if found == name:
                        return tensor
                self._stream = self._model.weights()
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
