"""What editors send, replayed: Continue, llama.vscode, Copilot. And requests that are given up."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LiveServer, asking
from paced import Paced

SUFFIX = "\n    return total\n"


@pytest.fixture(scope="module")
def http(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def sse_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line and line != "data: [DONE]"]


LLAMA_VSCODE = {
    "input_prefix": "def add(a, b):\n", "input_suffix": SUFFIX, "input_extra": [{"filename": "x.py", "text": "y = 1"}],
    "prompt": "    total = ", "n_predict": 6, "top_k": 40, "top_p": 0.99, "stream": False, "n_indent": 4,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 2000,
    "seed": 1,
}  # fmt: skip
UNHURRIED = LLAMA_VSCODE | {"t_max_predict_ms": 0}
"""The same, answered alike by a machine that stands still for seconds."""


def test_infill_of_llama_vscode(http: httpx.Client) -> None:
    told = http.post("/infill", json=LLAMA_VSCODE).raise_for_status().json()
    assert isinstance(told["content"], str) and told["stop"] is True and told["truncated"] is False
    assert told["stop_type"] in ("eos", "limit", "word") and 0 < told["tokens_predicted"] <= 6
    assert set(told["timings"]) >= {"prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "predicted_per_second"}


def test_infill_that_predicts_nothing_warms_the_cache(http: httpx.Client) -> None:
    body = {"input_prefix": "warm " * 40, "input_suffix": SUFFIX, "seed": 1}
    warm = http.post("/infill", json=body | {"n_predict": 0}).raise_for_status().json()
    assert (warm["content"], warm["tokens_predicted"]) == ("", 0)
    after = http.post("/infill", json=body | {"n_predict": 2}).raise_for_status().json()
    assert after["tokens_evaluated"] - after["tokens_cached"] <= 1


def test_infill_after_a_keystroke_reads_only_what_is_new(http: httpx.Client) -> None:
    body = {"input_prefix": "line = 1\n" * 20, "input_suffix": SUFFIX, "n_predict": 1, "seed": 1}
    http.post("/infill", json=body | {"prompt": "x"}).raise_for_status()
    after = http.post("/infill", json=body | {"prompt": "x ="}).raise_for_status().json()
    suffix_and_change = 30
    assert after["timings"]["prompt_n"] <= suffix_and_change < after["tokens_evaluated"] / 2


def test_an_array_of_infills_is_an_array_of_answers(http: httpx.Client) -> None:
    bodies = [UNHURRIED | {"prompt": prompt, "n_predict": 3} for prompt in ("a", "b", "a")]
    told = http.post("/infill", json=bodies).raise_for_status().json()
    alone = [http.post("/infill", json=body).raise_for_status().json() for body in bodies]
    assert [one["content"] for one in told] == [one["content"] for one in alone]


def test_infill_streams_what_it_would_answer(http: httpx.Client) -> None:
    body = UNHURRIED | {"n_indent": 0}
    whole = http.post("/infill", json=body).raise_for_status().json()
    chunks = sse_of(http.post("/infill", json=body | {"stream": True}))
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert chunks[-1]["stop"] is True and chunks[-1]["tokens_predicted"] == whole["tokens_predicted"]


def test_a_long_file_is_cut_and_told_so(http: httpx.Client) -> None:
    body = {"input_prefix": "alpha " * 400, "input_suffix": "omega " * 400, "n_predict": 2, "seed": 1}
    told = http.post("/infill", json=body).raise_for_status().json()
    assert told["truncated"] is True and told["tokens_evaluated"] <= 512


def test_an_answer_ends_where_it_reproduces_the_suffix(http: httpx.Client) -> None:
    """The grammar makes the model write the middle and then what stands after the gap."""
    grammar = {"grammar": 'root ::= "a + b\\n    return total\\n"'}
    told = http.post("/infill", json=UNHURRIED | {"n_predict": 60, "n_indent": 0} | grammar).raise_for_status().json()
    assert (told["content"], told["stop_type"], told["stopping_word"]) == ("a + b", "word", "\n    return total")


def test_an_answer_ends_before_a_line_that_is_less_indented(http: httpx.Client) -> None:
    grammar = {"grammar": 'root ::= "a\\n    b\\nc = 1\\n    d"', "input_suffix": ""}
    told = http.post("/infill", json=UNHURRIED | {"n_predict": 60} | grammar).raise_for_status().json()
    assert (told["content"], told["stop_type"]) == ("a\n    b", "limit")


def test_response_fields_are_taken_out_of_their_objects(http: httpx.Client) -> None:
    body = LLAMA_VSCODE | {"response_fields": ["content", "timings/prompt_n", "nothing"]}
    told = http.post("/infill", json=body).raise_for_status().json()
    assert set(told) == {"content", "prompt_n"}


def test_completion_takes_texts_ids_and_both(http: httpx.Client) -> None:
    body: dict[str, Any] = {"n_predict": 4, "seed": 3}
    text = http.post("/completion", json=body | {"prompt": "In summer"}).raise_for_status().json()
    several = (
        http.post("/completion", json=body | {"prompt": ["In summer", [40, "n summer"]]}).raise_for_status().json()
    )
    assert several[0]["content"] == text["content"] and several[1]["index"] == 1


def test_completion_streams_for_continue(http: httpx.Client) -> None:
    body = {"prompt": "def add", "n_predict": 5, "stream": True, "seed": 1, "temperature": 0.01, "stop": ["\n\n"]}
    chunks = sse_of(http.post("/completion", json=body))
    whole = http.post("/completion", json=body | {"stream": False}).raise_for_status().json()
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [chunk["stop"] for chunk in chunks].count(True) == 1


def test_completion_keeps_to_grammar_and_schema(http: httpx.Client) -> None:
    plain = http.post("/completion", json={"prompt": "a", "grammar": 'root ::= "été 😀"', "n_predict": 40})
    assert plain.raise_for_status().json()["content"] == "été 😀"
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    told = (
        http.post("/completion", json={"prompt": "a", "json_schema": schema, "n_predict": 60}).raise_for_status().json()
    )
    assert json.loads(told["content"])["a"] in (1, 2)


def test_completion_tells_probabilities(http: httpx.Client) -> None:
    body = {"prompt": "In summer", "n_predict": 3, "n_probs": 2, "temperature": 0}
    told = http.post("/completion", json=body).raise_for_status().json()
    entries = told["completion_probabilities"]
    assert len(entries) == told["tokens_predicted"] == 3
    for entry in entries:
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["id"] == entry["id"]  # greedy takes the likeliest


def test_a_body_without_a_type_is_json(http: httpx.Client) -> None:
    content = json.dumps({"prompt": "a", "n_predict": 1})
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "text/plain"}):
        assert http.post("/completion", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/fim/completions", "/fim/completions"])
def test_fim_of_continue(http: httpx.Client, path: str) -> None:
    body = {
        "model": "tiny", "prompt": "def add(a, b):\n    total = ", "suffix": SUFFIX, "max_tokens": 5,
        "temperature": 0.01, "top_p": 1, "stop": ["\n\n", "\r\n\r\n"], "stream": True, "random_seed": 4,
    }  # fmt: skip
    chunks = sse_of(http.post(path, json=body))
    whole = http.post(path, json=body | {"stream": False}).raise_for_status().json()
    said = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert all(isinstance(text, str) for text in said)
    assert "".join(said) == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == chunks[-1]["usage"]["completion_tokens"]


def test_continue_with_ollama_asks_what_the_model_can_then_fills_in(http: httpx.Client) -> None:
    shown = http.post("/api/show", json={"name": "tiny"}).raise_for_status().json()
    assert ".Suffix" in shown["template"] and "insert" in shown["capabilities"]
    body = {
        "model": "tiny", "prompt": "def add(a, b):\n    total = ", "suffix": SUFFIX, "raw": False, "stream": True,
        "options": {"temperature": 0.01, "num_predict": 5, "stop": ["<|fim_prefix|>"], "num_ctx": 256, "seed": 1},
        "keep_alive": 1800,
    }  # fmt: skip
    response = http.post("/api/generate", json=body).raise_for_status()
    lines = [json.loads(line) for line in response.text.splitlines()]
    filled = http.post(
        "/v1/fim/completions", json={k: body[k] for k in ("model", "prompt", "suffix")} | {"max_tokens": 5}
    ).json()
    assert lines[-1]["done"] is True and lines[-1]["prompt_eval_count"] == filled["usage"]["prompt_tokens"]


def test_copilot_finds_a_version_models_and_what_they_can(http: httpx.Client) -> None:
    version = http.get("/api/version").raise_for_status().json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]
    for model in http.get("/api/tags").raise_for_status().json()["models"]:
        shown = http.post("/api/show", json={"model": model["model"]}).raise_for_status().json()
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == 512
        assert shown["model_info"]["general.basename"] and "completion" in shown["capabilities"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/infill", [{"stream": True}], "stream"),
        ("/completion", {"prompt": {"no": "prompt"}}, "prompt"),
        ("/completion", {"prompt": 0}, "prompt"),
        ("/completion", {"prompt": [1, True]}, "prompt"),
        ("/completion", {"prompt": ["a", 1.5]}, "prompt"),
        ("/completion", {"prompt": []}, "prompt"),
        ("/completion", {"prompt": [10**30]}, "prompt"),
        ("/completion", {"prompt": "a", "logit_bias": [["no", 1]]}, "logit_bias"),
        ("/completion", {"prompt": "a", "grammar": "root ::= (", "n_predict": 2}, "grammar"),
        ("/completion", {"prompt": "a", "lora": [{"id": 3, "scale": 1}]}, "lora"),
        ("/completion", {"prompt": "a " * 2000}, "512"),
        ("/completion", {"prompt": "a", "temperature": 1e300}, "temperature"),
        ("/v1/fim/completions", {"model": "nobody", "prompt": "a"}, "tiny"),
        ("/v1/fim/completions", {"prompt": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, path: str, body: Any, field: str) -> None:
    response = http.post(path, content=json.dumps(body))
    assert response.status_code in (400, 404), response.text
    assert field in response.json()["error"]["message"]


LONG = "root ::= [a-z]{400}"
STRING = {"type": "string", "minLength": 400}


@pytest.fixture(scope="module")
def paced() -> Paced:
    return Paced()


@pytest.fixture(scope="module")
def held(tiny: Path, paced: Paced) -> Iterator[LiveServer]:
    """A server whose engine stands still when it is told to."""
    live = LiveServer(paced, models=[str(tiny)])
    yield live
    live.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "a", "input_suffix": SUFFIX, "grammar": LONG}),
        ("/completion", {"prompt": "a", "grammar": LONG}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": SUFFIX}),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "format": STRING}),
        ("/api/generate", {"model": "tiny", "prompt": "a", "suffix": SUFFIX, "format": STRING}),
    ],
)
def test_a_request_that_is_given_up_frees_its_place(
    held: LiveServer, paced: Paced, path: str, body: dict[str, Any], stream: bool
) -> None:
    outcomes: list[str] = []
    listener = lambda exchange: outcomes.append(exchange.outcome)  # noqa: E731
    held.call(lambda: held.service.listeners.append(listener))
    paced.hold.clear()
    try:
        with asking(held, path, body | {"stream": stream}) as connection:
            begun = time.monotonic()
            while not held.call(lambda: held.service.admission.running):
                assert time.monotonic() - begun < 60, "it was never admitted"
                time.sleep(0.002)
            if stream:
                assert connection.recv(8) == b"HTTP/1.1"
        held.settle()
        # A plain request may be given up before it has begun to be computed.
        assert outcomes == ["cancelled"] if stream else "done" not in outcomes
        assert held.call(lambda: [served.users for served in held.service.shelf.served]) == [0]
    finally:
        paced.hold.set()
        held.call(lambda: held.service.listeners.remove(listener))
