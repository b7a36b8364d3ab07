"""The command as a user types it."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typed import cadran, tiny_model

from cadran.cli.conversation import Conversation
from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), context=80)


def test_help_and_import_load_no_torch() -> None:
    code = "import sys, cadran, cadran.cli.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["run", "generate", "chat", "report", "tokenizer"])
def test_every_command_has_help(command: str) -> None:
    done = cadran(command, "--help")
    assert done.returncode == 0 and "--help" in done.stdout
    assert command in cadran("--help").stdout


def test_generate_prints_the_same_text_for_the_same_seed(model: Path) -> None:
    first = cadran("generate", str(model), "L'été", "--max-tokens", "12", "--seed", "4")
    assert first.returncode == 0, first.stderr
    assert first.stdout == cadran("generate", str(model), "-", "--max-tokens", "12", "--seed", "4", text="L'été").stdout
    raw = cadran("generate", str(model), "L'été", "--max-tokens", "12", "--seed", "4", "--raw")
    assert raw.returncode == 0 and raw.stdout != first.stdout


def test_mistakes_end_with_status_2_and_one_sentence(model: Path) -> None:
    for arguments, expected in (
        (("generate", "no-such-model", "x"), "there is no model no-such-model"),
        (("generate", str(model), "x", "--temperature", "-1"), "--temperature 0.8"),
        (("generate", str(model), "word " * 200), "shorten it"),
        (("run", "nothing"), "there is no recipe nothing"),
        (("report", "no-such-run"), "no-such-run"),
    ):
        done = cadran(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert expected in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_chat_reads_standard_input_to_its_end(model: Path) -> None:
    done = cadran("chat", str(model), "--max-tokens", "5", text="Bonjour\n/reset\n/nothing\nsalut\n")
    assert done.returncode == 0, done.stderr
    assert "forgotten" in done.stdout and "there is no command /nothing" in done.stdout


def test_tokenizer_show_marks_every_piece_and_tells_bytes_per_token(model: Path) -> None:
    done = cadran("tokenizer", "show", str(model), "L'été")
    assert done.returncode == 0, done.stderr
    assert "bytes per token of this text" in done.stdout
    as_json = cadran("tokenizer", "show", str(model), "L'été", "--json")
    assert '"pieces"' in as_json.stdout and '"bytes_per_token"' in as_json.stdout


@pytest.fixture
def conversation(model: Path) -> Conversation:
    params = SamplingParams(max_tokens=4)
    return Conversation(Engine.load(model), params, "Sois bref.", Console(file=io.StringIO()))


def test_conversation_keeps_history_and_reset_keeps_the_system_message(conversation: Conversation) -> None:
    conversation.say("Bonjour")
    conversation.say("Encore")
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant", "user", "assistant"]
    conversation.command("/reset")
    assert conversation.messages == [{"role": "system", "content": "Sois bref."}]


def test_conversation_commands_change_the_sampling(conversation: Conversation) -> None:
    for line in ("/temperature 0", "/top-p 0.5", "/seed 9"):
        assert conversation.command(line)
    assert (conversation.params.temperature, conversation.params.top_p, conversation.params.seed) == (0.0, 0.5, 9)
    assert not conversation.command("/quit")
    for wrong in ("/temperature hot", "/temperature 99", "/xyz"):
        with pytest.raises(UserError):
            conversation.command(wrong)


def test_a_message_that_does_not_fit_is_not_kept(conversation: Conversation) -> None:
    before = list(conversation.messages)
    with pytest.raises(UserError, match="shorten"):
        conversation.say("mot " * 200)
    assert conversation.messages == before
