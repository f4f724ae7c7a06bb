"""CPU and memory limits of the control groups that this process is in: cgroup v1 and v2, nested groups included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes such a number where there is no limit


def cpu_quota(system: Path = SYSTEM) -> float | None:
    """Return the CPUs that a process may use on average, the least of all its groups; None without a limit.

    Args:
        system: Root of the file system that has /proc and /sys.
    """
    quotas = []
    for folder, version in _folders("cpu", system):
        if version == 2:
            words = _read(folder / "cpu.max").split()
        else:
            words = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[0]) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def free_memory(system: Path = SYSTEM) -> int | None:
    """Return the bytes that remain of the memory limit, the least of all groups; None without a limit.

    Cached pages of files count as free: the kernel reclaims them before the limit is exceeded.

    Args:
        system: Root of the file system that has /proc and /sys.
    """
    left = []
    for folder, version in _folders("memory", system):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = (_read(folder / name).strip() for name in names)
        if limit.isdecimal() and used.isdecimal() and int(limit) < _UNLIMITED_BYTES:
            left.append(max(0, int(limit) - int(used) + _cached_bytes(folder)))
    return min(left, default=None)


def _cached_bytes(folder: Path) -> int:
    """Return the bytes of cached pages of files in a group and those below it."""
    lines = (line.partition(" ") for line in _read(folder / "memory.stat").splitlines())
    stat = {name: int(value) for name, _, value in lines if value.isdecimal()}
    # cgroup v1 has the sums over nested groups under other names than the group's own; v2 has the sums only
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))


def _folders(controller: str, system: Path) -> Iterator[tuple[Path, int]]:
    """Yield the folders of the process's groups that have a controller, innermost first, and the cgroup version."""
    paths = _group_paths(system)
    for line in _read(system / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version == 1 and controller not in kind[2].split(","):
            continue
        path = paths.get("" if version == 2 else controller)
        if path is None:
            continue
        mount = system / _unescaped(fields[4]).lstrip("/")
        below = _below(PurePosixPath(path), PurePosixPath(_unescaped(fields[3])))
        for depth in range(len(below.parts), -1, -1):
            yield mount.joinpath(*below.parts[:depth]), version


def _group_paths(system: Path) -> dict[str, str]:
    """Return the path of the process's group per controller of cgroup v1; that of v2 has the key ""."""
    paths = {}
    for line in _read(system / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(",") if number != "0" else [""]:
            paths[controller] = path
    return paths


def _below(path: PurePosixPath, mounted: PurePosixPath) -> PurePosixPath:
    """Return the path of a group relative to the one that is mounted; "" if it is not below it.

    In a container, the path may be that of the host while only the container's own group is mounted.
    """
    if not path.is_relative_to(mounted) or ".." in path.parts:
        return PurePosixPath()
    return path.relative_to(mounted)


def _unescaped(name: str) -> str:
    """Return a path of mountinfo, which has spaces and backslashes as octal numbers."""
    return name.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _read(path: Path) -> str:
    """Return the contents of a system file; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
