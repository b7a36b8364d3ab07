"""``cadran export``: a model as a GGUF file, or as a Hugging Face directory, whole or not at all."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadran.errors import UserError
from cadran.files import sync_folder, write_json, write_text
from cadran.library.header import ModelHeader, read_header
from cadran.library.lazy_weights import LazyWeights, StreamedWeights
from cadran.library.progress import Progress, silent
from cadran.library.record import RECORD, Record, file_records, read_record
from cadran.library.shards import LARGEST_SHARD, write_shards
from cadran.library.vetting import is_companion

if TYPE_CHECKING:
    from torch import Tensor

    from cadran.model.gguf.encoded import Encoded

_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_REWRITTEN = frozenset({RECORD, "config.json", "generation_config.json"})


def model_label(model: str) -> str:
    """What to call the model that a MODEL argument means: the last name of a path, else the argument itself."""
    path = Path(model)
    return (path.resolve().name if path.exists() else model.replace("/", "-")).removesuffix(".gguf")


def export_gguf_file(
    path: Path,
    output: Path,
    kind: str,
    *,
    name: str,
    force: bool = False,
    weights: Mapping[str, "Tensor"] | None = None,
    encoded: Mapping[str, "Encoded"] | None = None,
) -> Path:
    """Write a model as a GGUF file that llama.cpp opens.

    Args:
        path: of a model directory or GGUF file.
        output: the file; its folder must exist.
        kind: of the matrices: q8_0, q4_0 or f16.
        name: for ``general.name``.
        force: replace a file that is there.
        weights: by their names in a checkpoint, instead of the model's own.
        encoded: see `cadran.model.gguf.translate.export_gguf`.

    Returns:
        The file.

    Raises:
        UserError: it is there already, the model cannot be read, or llama.cpp does not know its kind.
    """
    from cadran.model.gguf.translate import GgufModel, export_gguf

    refuse_file(path, output, force)
    header = read_header(path)
    licence = _record_licence(path) or header.licence
    if path.is_file():
        with GgufModel.open(path) as model:
            tokenizer = {key: value for key, value in model.metadata.items() if key.startswith("tokenizer.")}
            streamed = StreamedWeights(model) if weights is None else weights
            export_gguf(output, model.config, streamed, tokenizer, kind, name, licence, encoded)
        return output
    from cadran.tokenizer.gguf_vocabulary import gguf_metadata

    serialised, settings = _tokenizer_files(path)
    tokenizer = gguf_metadata(serialised, settings, _vocabulary(header))
    with LazyWeights(path) as stored:
        own = stored if weights is None else weights
        export_gguf(output, header.config, own, tokenizer, kind, name, licence, encoded)
    return output


def refuse_file(path: Path, output: Path, force: bool) -> None:
    """Stop before work is done for a file that may not be written.

    Args:
        path: of the model.
        output: the file.
        force: whether one that is there may be replaced.

    Raises:
        UserError: it is there already, is the model itself, or its folder is missing.
    """
    if output.exists() and (not force or not output.is_file()):
        raise UserError(f"{output} is there already: add --force to replace it, or choose another with --output")
    if output.exists() and path.is_file() and output.samefile(path):
        raise UserError(f"{output} is the model itself: choose another file with --output")
    _refuse_missing_folder(output)


def export_folder(
    path: Path,
    output: Path,
    dtype: str = "auto",
    *,
    name: str,
    force: bool = False,
    largest: int = LARGEST_SHARD,
    progress: Progress = silent,
) -> Path:
    """Write a model as a Hugging Face directory that `transformers` opens.

    Args:
        path: of a model directory or GGUF file.
        output: the folder; the one above it must exist.
        dtype: of the weights: f32, f16 or bf16; ``auto`` keeps float16 and bfloat16, and takes float32 for anything
            else, which loses nothing of quantised weights.
        name: of the model, for ``cadran.json``.
        force: replace a model directory that is there.
        largest: bytes of one shard.
        progress: told how many bytes are written.

    Returns:
        The folder.

    Raises:
        UserError: it is there already, the model cannot be read, or a weight is too large for float16.
    """
    _refuse_output(path, output, force)
    if dtype != "auto" and dtype not in _TORCH:
        raise UserError(f"{dtype!r} is no kind of weights: choose auto, {', '.join(_TORCH)}")
    header = read_header(path)
    if header.sizes is None:
        raise UserError(f"{path} cannot be exported: {header.unknown}")
    chosen = _auto(header) if dtype == "auto" else dtype
    work = output.with_name(f".{output.name}.exporting")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with ExitStack() as stack:
            names, weights = write_small_files(path, work, header, stack)
            total = header.parameters * (4 if chosen == "f32" else 2)
            write_shards(work, names, _cast(weights, chosen, lambda done: progress("writing", done, total)), largest)
        write_json(work / "config.json", header.config | {"torch_dtype": _TORCH[chosen]})
        licence = _record_licence(path) or header.licence
        Record(name, f"export of {name} ({header.kind})", None, licence, file_records(work, {})).write(work)
        sync_folder(work)
        if output.exists():
            aside = output.with_name(f".{output.name}.replaced")
            shutil.rmtree(aside, ignore_errors=True)
            output.rename(aside)
            work.rename(output)
            shutil.rmtree(aside)
        else:
            work.rename(output)
        sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return output


def write_small_files(
    path: Path, work: Path, header: ModelHeader, stack: ExitStack
) -> tuple[list[str], Iterator[tuple[str, "Tensor"]]]:
    """Write everything of a model but weights and ``config.json``.

    Args:
        path: a model directory or GGUF file.
        work: the folder to write to.
        header: of the model.
        stack: closes what is opened.

    Returns:
        Names of the weights, and each with its tensor, read when it is taken.
    """
    if path.is_dir():
        for companion in sorted(path.iterdir()):
            if is_companion(companion.name) and companion.is_file() and companion.name not in _REWRITTEN:
                shutil.copyfile(companion, work / companion.name)
        generation = path / "generation_config.json"
        if generation.is_file():
            shutil.copyfile(generation, work / generation.name)
        else:
            write_json(work / generation.name, _generation(header.config))
        weights = stack.enter_context(LazyWeights(path))
        return list(weights), ((name, weights[name]) for name in weights)
    from cadran.model.gguf.translate import GgufModel
    from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

    model = stack.enter_context(GgufModel.open(path))
    serialised, settings = tokenizer_from_gguf(model.metadata)
    write_text(work / "tokenizer.json", serialised)
    write_json(work / "tokenizer_config.json", settings)
    write_json(work / "generation_config.json", _generation(model.config))
    return model.weight_names(), model.weights()


def _generation(config: Mapping[str, Any]) -> dict[str, Any]:
    ids = {field: config.get(field) for field in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {field: value for field, value in ids.items() if value is not None}


def _cast(
    weights: Iterator[tuple[str, "Tensor"]], dtype: str, progress: Callable[[int], None]
) -> Iterator[tuple[str, "Tensor"]]:
    import torch

    wanted = getattr(torch, _TORCH[dtype])
    done = 0
    for name, tensor in weights:
        if not tensor.is_floating_point():
            raise UserError(f"{name} holds no fractions ({tensor.dtype}): fetch an unquantised model, or its GGUF file")
        cast = tensor.to(wanted)
        if dtype == "f16" and bool((cast.isinf() & tensor.isfinite()).any()):
            raise UserError(f"{name} has weights that are too large for float16: take --dtype bf16 or f32")
        yield name, cast
        done += cast.numel() * cast.element_size()
        progress(done)


def _auto(header: ModelHeader) -> str:
    """float16 or bfloat16 when all matrices are stored so, else float32."""
    kinds = {tensor.kind for tensor in header.tensors if len(tensor.shape) > 1}
    return {frozenset({"F16"}): "f16", frozenset({"BF16"}): "bf16"}.get(frozenset(kinds), "f32")


def _tokenizer_files(folder: Path) -> tuple[str, dict[str, Any]]:
    try:
        serialised = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} has no tokenizer.json to read, and a GGUF file needs one: add it") from error
    settings = _settings(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8", errors="replace")
    return serialised, settings


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:80]}): fetch the model again") from error
    return content if isinstance(content, dict) else {}


def _vocabulary(header: ModelHeader) -> int:
    if header.sizes is None:
        raise UserError(f"{header.path} cannot be exported: {header.unknown}")
    return header.sizes.vocabulary


def _record_licence(path: Path) -> str | None:
    folder = path if path.is_dir() else path.parent
    try:
        return read_record(folder).licence
    except UserError:  # a model of a run, or a folder from elsewhere, has none of ours
        return None


def _refuse_output(path: Path, output: Path, force: bool) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"{output} is no folder: choose another with --output")
    if output.exists():
        if (path.is_dir() and output.samefile(path)) or path.parent.resolve().is_relative_to(output.resolve()):
            raise UserError(f"{output} holds the model itself: choose another folder with --output")
        if not force:
            raise UserError(f"{output} is there already: add --force to replace it, or choose another with --output")
        if any(output.iterdir()) and not (output / "config.json").is_file():
            raise UserError(f"{output} holds something else than a model: choose another folder with --output")
    _refuse_missing_folder(output)


def _refuse_missing_folder(output: Path) -> None:
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}: make it, or choose another place with --output")
