"""Limits of control groups are read from the files of cgroup v1 and v2, also nested and in containers."""

from pathlib import Path

import pytest

from gpt_core.cgroups import cpu_quota, free_memory

V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNT = "33 32 0:29 {root} /sys/fs/cgroup/{controller} rw - cgroup cgroup rw,{controller}\n"


def system(folder: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """Write the files of a system and return its root."""
    for name, text in ({"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("/", {}, None),
        ("/", {"cpu.max": "max 100000\n"}, None),
        ("/", {"cpu.max": "200000 100000\n"}, 2.0),
        ("/a/b", {"cpu.max": "max 100000\n", "a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("/a/b", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 0.5),
        ("/../other", {"cpu.max": "300000 100000\n"}, 3.0),
        ("/", {"cpu.max": "rubbish\n"}, None),
        ("/", {"cpu.max": "0 0\n"}, None),
    ],
)
def test_the_quota_of_cgroup_v2_is_the_least_of_all_nested_groups(
    tmp_path: Path, group: str, files: dict[str, str], quota: float | None
) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert cpu_quota(system(tmp_path, f"0::{group}\n", V2_MOUNT.format(root="/"), files)) == quota


@pytest.mark.parametrize(
    ("group", "root", "files", "quota"),
    [
        ("/docker/x", "/", {"docker/x": "200000"}, 2.0),
        ("/docker/x", "/docker/x", {"": "100000"}, 1.0),  # a container that sees the paths of its host
        ("/docker/x", "/", {"docker": "50000", "docker/x": "200000"}, 0.5),
        ("/", "/", {"": "-1"}, None),
    ],
)
def test_the_quota_of_cgroup_v1_is_read_with_its_period(
    tmp_path: Path, group: str, root: str, files: dict[str, str], quota: float | None
) -> None:
    found = {}
    for name, value in files.items():
        found[f"sys/fs/cgroup/cpu/{name}/cpu.cfs_quota_us"] = f"{value}\n"
        found[f"sys/fs/cgroup/cpu/{name}/cpu.cfs_period_us"] = "100000\n"
    cgroup = f"4:memory:/elsewhere\n1:cpu,cpuacct:{group}\n0::/\n"
    assert cpu_quota(system(tmp_path, cgroup, V1_MOUNT.format(root=root, controller="cpu"), found)) == quota


def test_the_remaining_memory_is_the_least_of_all_nested_groups(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "400\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "300\n",
    }  # fmt: skip
    assert free_memory(system(tmp_path / "v2", "0::/a/b\n", V2_MOUNT.format(root="/"), files)) == 600
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "1200\n",
    }
    mount = V1_MOUNT.format(root="/", controller="memory")
    assert free_memory(system(tmp_path / "v1", "4:memory:/a\n", mount, files)) == 0
    assert free_memory(system(tmp_path / "none", "4:memory:/\n", mount, files)) is None


def test_cached_pages_of_files_count_as_remaining_memory(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "900\n",
        "sys/fs/cgroup/a/memory.stat": "anon 400\nfile 500\ninactive_file 300\nactive_file 150\n",
    }  # fmt: skip
    assert free_memory(system(tmp_path / "v2", "0::/a\n", V2_MOUNT.format(root="/"), files)) == 550
    files = {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "900\n",
        "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 1\nactive_file 2\ntotal_inactive_file 300\n"
        "total_active_file 150\n",
    }
    mount = V1_MOUNT.format(root="/", controller="memory")
    assert free_memory(system(tmp_path / "v1", "4:memory:/a\n", mount, files)) == 550


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path), free_memory(tmp_path)) == (None, None)
