"""Free memory is what the machine has, or what the process's group, or one around it, may still take."""

import pytest

from fewstep.util.host_memory import free_memory

KIB = 1024


def system(folder, groups: dict[str, tuple[str, int, int]], own: str = "/outer/inner"):
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\nBuffers: 1 kB\n")
    (folder / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
    for path, (limit, used, cached) in groups.items():
        place = folder / "sys/fs/cgroup" / path
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 7\nactive_file 0\ninactive_file {cached}\n")
    return folder


@pytest.mark.parametrize(("groups", "free"), [
    ({}, 500 * KIB),
    ({"outer/inner": ("max", 10, 0)}, 500 * KIB),
    ({"outer/inner": ("1000", 300, 0)}, 700),
    ({"outer/inner": ("1000", 900, 600)}, 700),
    ({"outer/inner": ("max", 1, 0), "outer": ("200", 50, 0)}, 150),
    ({"outer/inner": ("100", 150, 0)}, 0),
])  # fmt: skip
def test_the_least_of_all_that_limit_it(tmp_path, groups, free):
    assert free_memory(system(tmp_path, groups)) == free


def test_a_system_that_tells_nothing(tmp_path):
    assert free_memory(tmp_path) is None


def test_this_machine_has_some():
    assert free_memory() > 0
