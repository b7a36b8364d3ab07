"""Chat templates of public models, out of the source package of llama-cpp-python, in the user's cache."""

import tarfile
import tempfile
from pathlib import Path

from public_checkpoints import CACHE
from public_vocabularies import LLAMA_CPP, _sdist

from cadran.files import write_bytes
from cadran.tokenizer.chat_template import ChatTemplate

TEMPLATES = {
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "object",
    "Qwen-Qwen2.5-7B-Instruct": "object",
    "Qwen-Qwen3-0.6B": "object",
    "Qwen-QwQ-32B": "object",
    "mistralai-Mistral-Nemo-Instruct-2407": "object",
    "unsloth-mistral-Devstral-Small-2507": "tagged",
    "Mistral-Small-3.2-24B-Instruct-2506": "tagged",
    "meta-llama-Llama-3.1-8B-Instruct": "object",
    "meta-llama-Llama-3.2-3B-Instruct": "object",
    "meetkai-functionary-medium-v3.1": "tagged",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": None,
    "moonshotai-Kimi-K2": "tagged",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "object",
    "google-gemma-2-2b-it": None,
    "microsoft-Phi-3.5-mini-instruct": None,
    "openai-gpt-oss-120b": None,
}
"""Name of the template -> the style of its calls; None where it is given the general one."""


def public_template(name: str) -> ChatTemplate:
    """A template; the test is skipped when it cannot be had."""
    requirement, sha256 = LLAMA_CPP
    folder = CACHE / f"llama.cpp-templates-{sha256[:12]}"
    path = folder / f"{name}.jinja"
    if not path.is_file():
        with (
            tempfile.TemporaryDirectory() as temporary,
            tarfile.open(_sdist(requirement, sha256, Path(temporary))) as archive,
        ):
            for member in archive:
                if Path(member.name).match("vendor/llama.cpp/models/templates/*.jinja"):
                    content = archive.extractfile(member)
                    assert content is not None
                    write_bytes(folder / Path(member.name).name, content.read())
    return ChatTemplate(path.read_text(encoding="utf-8"), {"bos_token": "<s>", "eos_token": "</s>"})
