"""Conversations that chat templates must write as ``transformers`` does, and the oracle that says how."""

from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather <now> & later, "exactly", in l\'été.',
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "où ?"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, CLOCK]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = None, *calls: tuple[str, Any], **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    if calls:
        message["tool_calls"] = [
            {"id": f"call00000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls)
        ]
    return message


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def result(content: str, number: int = 0) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call00000{number}", "name": "weather", "content": content}


CALLED = [user("Quel temps ?"), assistant("", ("weather", {"place": "Orly", "days": 2}))]

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "question": ([user("What is a dial?")], None),
    "system": ([system("Be brief."), user("What is a dial?")], None),
    "answered": ([user("Hello"), assistant("Hi there.")], None),
    "several turns": ([user("One"), assistant("Two"), user("Three"), assistant("Four"), user("Five")], None),
    "system and turns": ([system("S"), user("One"), assistant("Two"), user("Three"), assistant("Four")], None),
    "empty contents": ([system(""), user(""), assistant(""), user("")], None),
    "white space around": ([system(" \n s "), user("  x \n\n"), assistant("\n\ny \t "), user("\u00a0z\u2003")], None),
    "unicode": ([user("L’été à l'œuvre 😀👩‍👩‍👧 日本語 e\u0301 \u202b"), assistant("naïve ∑ ١٢٣\x00\x1b")], None),
    "markup": ([user("<b>&amp;</b> \"q\" 'a' {{ x }} {% y %} [INST] \\n"), assistant("```json\n{}\n```")], None),
    "line ends": ([user("a\r\nb\rc\nd"), assistant("\r\n"), user("\n")], None),
    "tools offered": ([user("Weather in Orly?")], TOOLS),
    "system and tools": ([system("Use tools."), user("Weather in Orly?")], TOOLS),
    "no tool in the list": ([user("Weather in Orly?")], []),
    "a call": (CALLED, TOOLS),
    "a call without content": ([user("Quel temps ?"), assistant(None, ("weather", {"place": "Orly"}))], TOOLS),
    "a call and its result": ([*CALLED, result('{"sky": "blue"}'), assistant("It is blue."), user("Merci")], TOOLS),
    "calls as text": ([user("Both?"), assistant("", ("weather", '{"place": "Orly"}'), ("clock", "{}"))], None),
    "two calls": (
        [
            user("Both?"),
            assistant("I look.", ("weather", {"place": "Orly"}), ("clock", {})),
            result("blue"),
            result("noon", 1),
            assistant("Blue at noon."),
        ],
        TOOLS,
    ),
    "reasoning": ([user("2+2?"), assistant("4", reasoning_content="Two and two."), user("3+3?")], None),
    "reasoning in the text": ([user("2+2?"), assistant("<think>\nTwo.\n</think>\n\n4"), user("Why?")], None),
    "parts": ([user([{"type": "text", "text": "one"}, {"type": "text", "text": " two "}]), assistant("ok")], None),
    "not alternating": ([user("One"), user("Two"), assistant("Three"), assistant("Four")], None),
    "answer first": ([assistant("Hello, I begin."), user("Good.")], None),
    "another role": ([{"role": "developer", "content": "d"}, user("u")], None),
    "many turns": ([turn for number in range(30) for turn in (user(f"q{number}"), assistant(f"a{number}"))], None),
}
