"""The number of threads is what the container grants, as its files say in either version."""

from pathlib import Path

import pytest

from cadran.engine.threads import ThreadLimits, cgroup_quota, thread_limits, usable_threads

UNIFIED = "31 23 0:28 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
LEGACY = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with these control groups."""
    for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("content", "quota"),
    [
        ("200000 100000", 2.0),
        ("50000 100000", 0.5),
        ("350000 100000", 3.5),
        ("300000", 3.0),
        ("max 100000", None),
        ("", None),
        ("nonsense 7", None),
        ("100000 0", None),
    ],
)
def test_version_2_says_time_and_period(tmp_path: Path, content: str, quota: float | None) -> None:
    files = {"sys/fs/cgroup/a/b/cpu.max": content}
    assert cgroup_quota(machine(tmp_path, "0::/a/b", UNIFIED.format(top="/"), files)) == quota


def test_the_tightest_group_around_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        "sys/fs/cgroup/a/cpu.max": "150000 100000",
        "sys/fs/cgroup/cpu.max": "400000 100000",
        "sys/fs/cgroup/other/cpu.max": "10000 100000",
    }
    assert cgroup_quota(machine(tmp_path, "0::/a/b", UNIFIED.format(top="/"), files)) == 1.5


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None)])
def test_version_1_says_them_in_two_files(tmp_path: Path, quota: str, expected: float | None) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/x/"
    files = {folder + "cpu.cfs_quota_us": quota, folder + "cpu.cfs_period_us": "100000"}
    groups = "5:memory:/docker/y\n4:cpu,cpuacct:/docker/x\n0::/"
    assert cgroup_quota(machine(tmp_path, groups, LEGACY.format(top="/"), files)) == expected


@pytest.mark.parametrize(("top", "path"), [("/docker/x", "/docker/x"), ("/docker/x", "/elsewhere"), ("/", "/../up")])
def test_in_a_container_the_group_is_the_root_of_the_mount(tmp_path: Path, top: str, path: str) -> None:
    files = {"sys/fs/cgroup/cpu.max": "100000 100000"}
    assert cgroup_quota(machine(tmp_path, f"0::{path}", UNIFIED.format(top=top), files)) == 1.0


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None
    machine(tmp_path, "garbage\n0::", "short line\n1 2 3 - \nx - cgroup2", {})
    assert cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "physical", "usable"),
    [(8, None, None, 8), (8, 2.9, 4, 2), (8, None, 4, 4), (1, 6.0, 4, 1), (8, 0.25, 4, 1), (92, 2.0, None, 2)],
)
def test_the_smallest_limit_wins_and_is_at_least_one(
    affinity: int, quota: float | None, physical: int | None, usable: int
) -> None:
    assert ThreadLimits(affinity, quota, physical).usable == usable


def test_this_machine_has_a_thread_and_a_quota_lowers_it(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "100000 100000"}
    assert thread_limits(machine(tmp_path, "0::/", UNIFIED.format(top="/"), files)).usable == 1
    assert 1 <= usable_threads() <= thread_limits(tmp_path / "nothing").affinity
