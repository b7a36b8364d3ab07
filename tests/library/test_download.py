"""A file from a server comes whole and verified, or not at all; what has come is not asked for again."""

import hashlib
import urllib.request

import pytest

from cadran.errors import UserError
from cadran.library.download import ATTEMPTS, Remote, _CarefulRedirects, check_address, download
from cadran.library.progress import silent
from cadran.wheel import Unreachable

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def remote(server):
    server.files["/a.gguf"] = CONTENT
    return Remote("a.gguf", f"{server.url}/a.gguf", sha256=SHA256)


def fetch(remote, folder, progress=silent):
    return download(remote, folder, progress, pause=0.0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_is_not_asked_for_again(remote, server, tmp_path):
    seen = []
    path = fetch(remote, tmp_path, lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["a.gguf"]
    assert seen[0] == ("a.gguf", 0, len(CONTENT)) and seen[-1] == ("a.gguf", len(CONTENT), len(CONTENT))
    fetch(remote, tmp_path)
    assert len(server.asked) == 1


def test_ctrl_c_keeps_what_came_and_the_next_call_asks_for_the_rest_alone(remote, server, tmp_path):
    server.files["/a.gguf"] = large = CONTENT * 60  # several pieces
    remote = Remote("a.gguf", remote.url, sha256=hashlib.sha256(large).hexdigest())

    def interrupt(name, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote, tmp_path, interrupt)
    assert names(tmp_path) == [".a.gguf.part"]
    have = (tmp_path / ".a.gguf.part").stat().st_size
    assert 0 < have < len(large)
    assert fetch(remote, tmp_path).read_bytes() == large
    assert [asked[1] for asked in server.asked] == [None, f"bytes={have}-"]


def test_a_server_that_stops_in_the_middle_is_asked_for_the_rest(remote, server, tmp_path):
    server.breaks = 3
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert [asked[1] for asked in server.asked] == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]


def test_a_server_that_ignores_ranges_starts_over(remote, server, tmp_path):
    server.ignores_range = True
    (tmp_path / ".a.gguf.part").write_bytes(b"x" * 5000)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_server_that_ignores_ranges_and_always_stops_is_given_up(remote, server, tmp_path):
    server.ignores_range, server.breaks = True, 99
    with pytest.raises(Unreachable, match=r"the server stopped after 1,000 of 10,240 bytes.*same command"):
        fetch(remote, tmp_path)
    assert len(server.asked) == ATTEMPTS + 1
    assert names(tmp_path) == [".a.gguf.part"]


def test_a_server_with_another_part_than_asked_for_is_not_believed(remote, server, tmp_path):
    server.shifts_range = True
    (tmp_path / ".a.gguf.part").write_bytes(CONTENT[:5000])
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"another version" * 100, CONTENT + b"longer", CONTENT[:-1] + b"?"])
def test_a_part_of_another_version_is_fetched_anew(remote, tmp_path, left):
    (tmp_path / ".a.gguf.part").write_bytes(left)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_byte(remote, tmp_path):
    (tmp_path / ".a.gguf.part").write_bytes(CONTENT)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_a_wrong_sha256_names_both_and_leaves_nothing(remote, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UserError) as error:
        fetch(Remote("a.gguf", remote.url, sha256=wrong), tmp_path)
    assert wrong in str(error.value) and SHA256 in str(error.value) and names(tmp_path) == []


def test_a_git_hash_is_verified_too(remote, tmp_path):
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    good = Remote("a.json", remote.url, bytes=len(CONTENT), git_blob=blob)
    assert fetch(good, tmp_path).read_bytes() == CONTENT
    with pytest.raises(UserError, match="removed"):
        fetch(Remote("b.json", remote.url, bytes=len(CONTENT), git_blob="0" * 40), tmp_path)
    assert names(tmp_path) == ["a.json"]


def test_another_size_than_announced_is_refused_before_a_byte_is_written(remote, tmp_path):
    with pytest.raises(UserError, match=r"10,240 bytes where 10 were announced"):
        fetch(Remote("a.gguf", remote.url, bytes=10, sha256=SHA256), tmp_path)
    assert names(tmp_path) == []


def test_more_than_the_disk_has_is_refused_before_a_byte_is_written(remote, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match="CADRAN_HOME"):
        fetch(remote, tmp_path)
    assert names(tmp_path) == []


def test_a_missing_file_is_a_mistake_and_a_busy_server_is_not(remote, server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="404") as error:
        fetch(remote, tmp_path)
    assert not isinstance(error.value, Unreachable) and len(server.asked) == 1
    server.status = 503
    with pytest.raises(Unreachable, match="503"):
        fetch(remote, tmp_path)
    assert len(server.asked) == 1 + ATTEMPTS


def test_no_server_at_all_is_unreachable(tmp_path):
    with pytest.raises(Unreachable, match="refused"):
        fetch(Remote("a.gguf", "http://127.0.0.1:9/a.gguf", sha256=SHA256), tmp_path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/a.gguf", "plain http"),
        ("ftp://example.org/a", "no address"),
        ("file:///etc/passwd", "no address"),
        ("https:///a", "no address"),
        ("https://user:secret@example.org/a", "password"),
        ("https://example.org/a\r\nHost: b", "no address"),
        ("https://[::1", "no address"),
        ("http://127.0.0.1.example.org/a", "plain http"),
    ],
)
def test_an_address_that_is_not_https_is_refused(url, reason):
    with pytest.raises(UserError, match=reason) as error:
        check_address(url)
    assert "secret" not in str(error.value)


def test_a_redirection_is_followed_and_a_token_is_not_told_to_its_target(remote, server, tmp_path):
    server.redirects["/b.gguf"] = remote.url
    secret = Remote("b.gguf", f"{server.url}/b.gguf", sha256=SHA256, headers={"Authorization": "Bearer secret"})
    assert fetch(secret, tmp_path).read_bytes() == CONTENT
    assert [asked[2] for asked in server.asked] == ["Bearer secret", None]


def test_a_redirection_to_plain_http_elsewhere_is_refused(remote, server, tmp_path):
    server.redirects["/b.gguf"] = "http://example.org/a.gguf"
    with pytest.raises(UserError, match="plain http"):
        fetch(Remote("b.gguf", f"{server.url}/b.gguf", sha256=SHA256), tmp_path)


def test_a_redirection_from_https_to_http_is_refused_even_on_this_machine():
    request = urllib.request.Request("https://127.0.0.1/a")
    with pytest.raises(UserError, match="redirects to plain http"):
        _CarefulRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/a")
