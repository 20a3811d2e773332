//! How much memory this process may still take: the least that its limits, its control groups and the machine leave.
//! Whatever grows with an option or a file is compared with it before it is allocated.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// What a hard limit leaves unused: threads, decoders and the allocator take some that nobody counts. No more than an
/// eighth of what is left, but for the allocator's own part.
const RESERVE: u64 = 64 << 20;

/// What the allocator takes beside what it is asked for.
pub const ALLOCATOR: u64 = 2 << 20;

/// What bounds the memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `RLIMIT_AS`, what `ulimit -v` sets: the address space, mapped files included.
    AddressSpace,
    /// `RLIMIT_DATA`, what `ulimit -d` sets.
    Data,
    /// A control group, version 1 or 2, by its folder: that of the process, or one that it lies in.
    Group(PathBuf),
    /// What the system promised to all processes together, where it promises no more than it has
    /// (`vm.overcommit_memory` 2).
    Commit,
    /// The memory of the machine (`MemAvailable`).
    Machine,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSpace => f.write_str("by ulimit -v"),
            Self::Data => f.write_str("by ulimit -d"),
            Self::Group(folder) => {
                let folder = folder.to_string_lossy();
                write!(f, "in the control group {}", folder.escape_debug())
            }
            Self::Commit => f.write_str("by vm.overcommit_memory"),
            Self::Machine => f.write_str("on this machine"),
        }
    }
}

/// What may still be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Bytes beyond those that are left for what nobody counts, where passing the bound ends the process.
    pub reserve: u64,
    /// What leaves no more.
    pub by: Bound,
}

impl fmt::Display for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB are free {}", self.bytes >> 20, self.by)
    }
}

/// What this process may still take; `None` where the system does not tell.
pub fn free() -> Option<Free> {
    let roots = Roots {
        proc: Path::new("/proc"),
        groups: Path::new("/sys/fs/cgroup"),
    };
    roots.free(limit(libc::RLIMIT_AS), limit(libc::RLIMIT_DATA))
}

/// Has threads share their heap where the address space is limited: each would set 64 MiB of it aside, and leave them
/// unused. Once, before there are threads.
pub fn begin() {
    #[cfg(target_env = "gnu")]
    if limit(libc::RLIMIT_AS).is_some() {
        // SAFETY: mallopt sets a number of the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Refuses what does not fit: `what` needs `bytes`, and `remedy` says what to do instead, given the bytes that are
/// free.
///
/// # Errors
/// When it does not fit; the message has both numbers, what bounds the memory, and the remedy.
pub fn ensure(
    bytes: u64,
    what: impl fmt::Display,
    remedy: impl FnOnce(u64) -> String,
) -> Result<()> {
    match free() {
        Some(free) if bytes > free.bytes => {
            bail!(
                "{what} needs {} MiB of memory, and {free}: {}",
                bytes.div_ceil(1 << 20),
                remedy(free.bytes)
            )
        }
        _ => Ok(()),
    }
}

/// The soft limit of `resource`, bytes; `None` where there is none.
fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit fills the structure that it is given.
    let done = unsafe { libc::getrlimit(resource, &raw mut limits) } == 0;
    (done && limits.rlim_cur != libc::RLIM_INFINITY).then_some(limits.rlim_cur)
}

/// Where the system says what there is.
struct Roots<'a> {
    /// `/proc`.
    proc: &'a Path,
    /// `/sys/fs/cgroup`.
    groups: &'a Path,
}

impl Roots<'_> {
    /// The least of all bounds, where `address_space` and `data` are the limits of the process, bytes.
    fn free(&self, address_space: Option<u64>, data: Option<u64>) -> Option<Free> {
        let mut all = Vec::new();
        let status = read(&self.proc.join("self/status"));
        for (limit, used, by) in [
            (address_space, "VmSize:", Bound::AddressSpace),
            (data, "VmData:", Bound::Data),
        ] {
            if let (Some(limit), Some(used)) = (limit, kib(&status, used)) {
                all.push(hard(limit.saturating_sub(used), by));
            }
        }
        let machine = read(&self.proc.join("meminfo"));
        if read(&self.proc.join("sys/vm/overcommit_memory")).trim() == "2"
            && let (Some(limit), Some(used)) = (
                kib(&machine, "CommitLimit:"),
                kib(&machine, "Committed_AS:"),
            )
        {
            all.push(hard(limit.saturating_sub(used), Bound::Commit));
        }
        if let Some(bytes) = kib(&machine, "MemAvailable:") {
            let (reserve, by) = (0, Bound::Machine);
            all.push(Free { bytes, reserve, by });
        }
        self.add_groups(&mut all);
        all.into_iter().min_by_key(|free| free.bytes)
    }

    /// What each control group leaves that this process lies in.
    fn add_groups(&self, all: &mut Vec<Free>) {
        // ID:CONTROLLERS:PATH, where version 2 has no controllers.
        for line in read(&self.proc.join("self/cgroup")).lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let path = Path::new(path.trim_start_matches('/'));
            if controllers.is_empty() {
                for root in [self.groups.to_path_buf(), self.groups.join("unified")] {
                    add_group_and_above(&root, path, &VERSION_2, all);
                }
            } else if controllers.split(',').any(|name| name == "memory") {
                add_group_and_above(&self.groups.join("memory"), path, &VERSION_1, all);
            }
        }
    }
}

/// How a version of control groups calls its files and their lines.
struct Version {
    limits: &'static [&'static str],
    usage: &'static str,
    /// Lines of memory.stat: what is given back when it is needed.
    reclaimable: [&'static str; 2],
}

const VERSION_2: Version = Version {
    // Above memory.high a group is slowed down until nothing moves.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    reclaimable: ["inactive_file ", "active_file "],
};
const VERSION_1: Version = Version {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file ", "total_active_file "],
};

/// Adds what `root/path` and the groups above it leave. In a container, the path may be that of another view: then what
/// is there under `root` is taken, which is the container's own.
fn add_group_and_above(root: &Path, path: &Path, version: &Version, all: &mut Vec<Free>) {
    let number = |file: PathBuf| read(&file).trim().parse::<u64>().ok();
    for part in path.ancestors() {
        let folder = root.join(part);
        let limits = version
            .limits
            .iter()
            .filter_map(|name| number(folder.join(name)));
        let (Some(limit), Some(used)) = (limits.min(), number(folder.join(version.usage))) else {
            continue;
        };
        let lines = read(&folder.join("memory.stat"));
        let value = |name: &str| {
            lines
                .lines()
                .find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        let cache = version.reclaimable.iter().filter_map(|name| value(name));
        let used = used.saturating_sub(cache.fold(0, u64::saturating_add));
        all.push(hard(limit.saturating_sub(used), Bound::Group(folder)));
    }
}

/// What a limit leaves that ends the process where it is passed.
fn hard(left: u64, by: Bound) -> Free {
    let reserve = RESERVE.min(left / 8).max(ALLOCATOR.min(left));
    Free {
        bytes: left - reserve,
        reserve,
        by,
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Bytes of the line that starts with `name`, as `MemAvailable:   1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            let base = [
                (
                    "proc/self/status",
                    "VmSize:\t   10240 kB\nVmData:\t   2048 kB\n",
                ),
                (
                    "proc/meminfo",
                    "MemTotal: 9 kB\nMemAvailable:    1048576 kB\n",
                ),
            ];
            for (name, text) in base.iter().chain(files) {
                let path = machine.0.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            machine
        }

        fn free(&self, address_space: Option<u64>, data: Option<u64>) -> Option<Free> {
            let (proc, groups) = (&self.0.path().join("proc"), &self.0.path().join("groups"));
            Roots { proc, groups }.free(address_space, data)
        }

        fn group(&self, free: &Free) -> String {
            match &free.by {
                Bound::Group(folder) => {
                    let inside = folder.strip_prefix(self.0.path().join("groups"));
                    inside
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .trim_end_matches('/')
                        .to_string()
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_machine_bounds_where_nothing_else_does() {
        let machine = Machine::new(&[]);
        let free = machine.free(None, None).unwrap();
        assert_eq!((free.bytes, free.by), (1024 * MIB, Bound::Machine));
        let nothing = Roots {
            proc: Path::new("/nowhere"),
            groups: Path::new("/nowhere"),
        };
        assert_eq!(nothing.free(Some(1), Some(1)), None);
    }

    #[test]
    fn limits_of_the_process_count_what_it_has() {
        let machine = Machine::new(&[]);
        let free = machine.free(Some(90 * MIB), None).unwrap();
        assert_eq!((free.bytes, free.by), (70 * MIB, Bound::AddressSpace));
        let free = machine.free(Some(900 * MIB), Some(802 * MIB)).unwrap();
        assert_eq!((free.bytes, free.by), (736 * MIB, Bound::Data));
        let free = machine.free(Some(5 * MIB), None).unwrap();
        assert_eq!(free.bytes, 0);
    }

    #[test]
    fn a_system_that_promises_no_more_than_it_has() {
        let machine = Machine::new(&[
            ("proc/sys/vm/overcommit_memory", "2\n"),
            (
                "proc/meminfo",
                "MemAvailable: 1048576 kB\nCommitLimit: 204800 kB\nCommitted_AS: 122880 kB\n",
            ),
        ]);
        let free = machine.free(None, None).unwrap();
        assert_eq!((free.bytes, free.by), (70 * MIB, Bound::Commit));
    }

    #[test]
    fn every_group_above_counts_without_its_cache() {
        let text = |mib: u64| (mib * MIB).to_string();
        let (high, used, cache) = (
            text(500),
            text(300),
            format!(
                "anon 5\nactive_file {}\ninactive_file {}\nfile 7\n",
                40 * MIB,
                60 * MIB
            ),
        );
        let machine = Machine::new(&[
            ("proc/self/cgroup", "0::/user.slice/train\n"),
            ("groups/user.slice/train/memory.max", "max\n"),
            ("groups/user.slice/train/memory.current", &text(100)),
            ("groups/user.slice/memory.max", &text(900)),
            ("groups/user.slice/memory.high", &high),
            ("groups/user.slice/memory.current", &used),
            ("groups/user.slice/memory.stat", &cache),
        ]);
        let free = machine.free(None, None).unwrap();
        assert_eq!(machine.group(&free), "user.slice");
        // 500 − (300 − 100) and the reserve.
        assert_eq!(free.bytes, 300 * MIB - 300 * MIB / 8);
        // In a container the path is often that of the host, and its own group is the root.
        let machine = Machine::new(&[
            ("proc/self/cgroup", "0::/docker/abc\n"),
            ("groups/memory.max", &text(200)),
            ("groups/memory.current", &text(40)),
        ]);
        let free = machine.free(None, None).unwrap();
        assert_eq!(
            (machine.group(&free), free.bytes),
            (String::new(), 140 * MIB)
        );
    }

    #[test]
    fn groups_of_version_1() {
        let text = |mib: u64| (mib * MIB).to_string();
        let stat = format!(
            "inactive_file 1\ntotal_active_file {}\ntotal_inactive_file {}\n",
            MIB, MIB
        );
        let machine = Machine::new(&[
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/other\n4:memory:/job/step\n0::/\n",
            ),
            ("groups/memory/job/step/memory.limit_in_bytes", &text(160)),
            ("groups/memory/job/step/memory.usage_in_bytes", &text(82)),
            ("groups/memory/job/step/memory.stat", &stat),
            (
                "groups/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("groups/memory/memory.usage_in_bytes", &text(2000)),
        ]);
        let free = machine.free(None, None).unwrap();
        assert_eq!(
            (machine.group(&free), free.bytes),
            ("memory/job/step".into(), 70 * MIB)
        );
    }
}
