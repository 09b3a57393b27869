//! What the machine has left for this process: memory, and space on a disk. Asked before something large is begun.
//!
//! Memory is the least of several limits: what the machine can give without swapping plus its swap, what every control
//! group above the process still allows (containers, batch systems), and the limits of the process itself (`ulimit -v`).
//! Where the operating system does not say, nothing is known, and nothing is refused.

use crate::error::{Error, Kind, Result};
use std::path::Path;

/// The limits of the process itself.
const PROCESS: &str = "the process (`ulimit`)";

/// Bytes of memory that are left, and what limits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    /// "the machine", "the control group", ...
    pub limit: &'static str,
}

/// Memory that this process can still take; none where the system does not tell.
pub fn memory() -> Option<Room> {
    memory_in(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

/// Refuses what needs more than the memory that is left; `what` says it, in the words of a message.
///
/// # Errors
/// More than is left (device).
pub fn need(bytes: u128, what: impl FnOnce() -> String) -> Result<()> {
    match memory() {
        Some(room) if bytes > room.bytes.into() => Err(Error::new(Kind::Device, what()).cause(compared(bytes, room))),
        _ => Ok(()),
    }
}

/// Address space of a thread: the 2 MiB of its stack, the pages around it, and what its allocator begins with. 1024 threads did not start in 3.8 GiB.
const THREAD: u128 = 4 << 20;

/// Refuses so many threads where the limits of the process have no room for their stacks: one that starts without
/// room for its signal stack would end in a panic of the standard library.
///
/// # Errors
/// So many threads (device).
pub fn threads(count: usize) -> Result<()> {
    let needed = THREAD * count as u128;
    match process_room(Path::new("/proc")) {
        Some(bytes) if needed > bytes.into() => {
            let room = Room { bytes, limit: PROCESS };
            Err(cannot_start(count).cause(compared(needed, room)))
        }
        _ => Ok(()),
    }
}

/// As many threads as have room, where one for each core has not.
pub fn fewer_threads() -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    fewer(cores, |count| threads(count).is_ok())
}

/// The same of so many cores: as many as fit, halved until they do, and one at least.
fn fewer(cores: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if fits(cores) {
        return None;
    }
    let mut count = cores / 2;
    while count > 1 && !fits(count) {
        count /= 2;
    }
    Some(count.max(1))
}

/// The error of threads that do not start.
pub fn cannot_start(threads: usize) -> Error {
    Error::new(Kind::Device, format!("cannot start {threads} threads")).hint("give fewer with `--threads N`")
}

/// Need beside room, as a line of a message.
pub fn compared(bytes: u128, room: Room) -> String {
    format!("it needs about {}, and {} has {} left", shown(bytes), room.limit, shown(room.bytes.into()))
}

/// `bytes` in the unit that suits them.
pub fn shown(bytes: u128) -> String {
    let units = [(1u128 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// Free bytes of the file system that `path` is on, or will be on; none where the system does not tell.
pub fn disk(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let absolute = std::path::absolute(path).ok()?;
        let there = absolute.ancestors().find(|p| p.exists())?;
        let stat = rustix::fs::statvfs(there).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

fn memory_in(proc: &Path, groups: &Path) -> Option<Room> {
    let meminfo = system_text(&proc.join("meminfo"))?;
    let available = kib(&meminfo, "MemAvailable:")?;
    let swap = kib(&meminfo, "SwapFree:").unwrap_or(0);
    let machine = Room { bytes: available.saturating_add(swap), limit: "the machine" };
    let group = group_room(&system_text(&proc.join("self/cgroup")).unwrap_or_default(), groups);
    let group = group.map(|bytes| Room { bytes, limit: "the control group" });
    let process = process_room(proc).map(|bytes| Room { bytes, limit: PROCESS });
    [Some(machine), group, process].into_iter().flatten().min_by_key(|room| room.bytes)
}

/// The least room of the groups that the process is in, from its own up to the root; /proc/self/cgroup names them.
fn group_room(cgroup: &str, root: &Path) -> Option<u64> {
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (controllers, path) = (parts.nth(1)?, parts.next()?);
        let (roots, (limit, used, prefix)): (Vec<_>, _) = match controllers {
            "" => (vec![root.to_path_buf(), root.join("unified")], ("memory.max", "memory.current", "")),
            of if of.split(',').any(|c| c == "memory") => {
                (vec![root.join("memory")], ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
            }
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        // In a container the path may be one of the world outside; the root is then the container's own group.
        let places = roots.iter().flat_map(|root| path.ancestors().map(move |p| root.join(p)));
        places.filter_map(|dir| room_of(&dir, limit, used, prefix)).min()
    };
    cgroup.lines().filter_map(of).min()
}

/// Limit less use of one group. Pages of files count as used there, and are given up when memory is needed.
fn room_of(dir: &Path, limit: &str, used: &str, prefix: &str) -> Option<u64> {
    let number = |name: &str| system_text(&dir.join(name))?.trim().parse::<u64>().ok();
    let (limit, used) = (number(limit)?, number(used)?);
    let stat = system_text(&dir.join("memory.stat")).unwrap_or_default();
    let cached = ["inactive_file", "active_file"].iter().filter_map(|key| {
        let wanted = format!("{prefix}{key}");
        let mut words = stat.lines().map(str::split_whitespace);
        words.find_map(|mut w| if w.next() == Some(&wanted) { w.next()?.parse::<u64>().ok() } else { None })
    });
    Some(limit.saturating_sub(used.saturating_sub(cached.sum())))
}

/// What `ulimit -v` and `ulimit -d` still allow.
fn process_room(proc: &Path) -> Option<u64> {
    let limits = system_text(&proc.join("self/limits"))?;
    let status = system_text(&proc.join("self/status"))?;
    let left = |name: &str, used: &str| {
        let soft = limits.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(soft.saturating_sub(kib(&status, used)?))
    };
    [left("Max address space", "VmSize:"), left("Max data size", "VmData:")].into_iter().flatten().min()
}

/// The bytes of a line `KEY  N kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The text of a file of the system, which says that it has no length.
fn system_text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn as_many_threads_start_by_themselves_as_have_room_and_one_at_least() {
        let of = |cores, room| fewer(cores, |count| count <= room);
        assert_eq!(
            [of(8, 8), of(8, 7), of(8, 3), of(96, 1), of(1, 0), of(64, 0)],
            [None, Some(4), Some(2), Some(1), Some(1), Some(1)]
        );
    }

    /// A system of these files.
    fn system(files: &[(&str, &str)]) -> Option<Room> {
        let place = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\nSwapFree: 1048576 kB\n");
        for (name, text) in [&[meminfo], files].concat() {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        memory_in(&place.path().join("proc"), &place.path().join("groups"))
    }

    #[test]
    fn without_any_limit_the_machine_decides_with_its_swap() {
        assert_eq!(system(&[]), Some(Room { bytes: 17 * GIB, limit: "the machine" }));
        assert_eq!(system(&[("proc/meminfo", "nothing")]), None);
    }

    #[test]
    fn the_tightest_group_up_the_hierarchy_decides_and_pages_of_files_are_free() {
        let group = "groups/a/b/memory.max";
        let files = [
            ("proc/self/cgroup", "0::/a/b\n"),
            (group, "max\n"),
            ("groups/a/b/memory.current", "1000"),
            ("groups/a/memory.max", "4294967296\n"),
            ("groups/a/memory.current", "3221225472\n"),
            ("groups/a/memory.stat", "anon 5\ninactive_file 1073741824\nactive_file 536870912\n"),
        ];
        assert_eq!(system(&files), Some(Room { bytes: 5 * GIB / 2, limit: "the control group" }));
        let own = [&files[..], &[(group, "1000000000")]].concat();
        assert_eq!(system(&own).unwrap().bytes, 1_000_000_000 - 1000);
        // The path of the world outside: the root is the container's own group.
        let inside = [
            ("proc/self/cgroup", "0::/../outside\n"),
            ("groups/memory.max", "2147483648"),
            ("groups/memory.current", "0"),
        ];
        assert_eq!(system(&inside), Some(Room { bytes: 2 * GIB, limit: "the control group" }));
    }

    #[test]
    fn the_first_version_of_control_groups_is_understood_too() {
        let files = [
            ("proc/self/cgroup", "12:cpu:/x\n4:memory,other:/job\n"),
            ("groups/memory/job/memory.limit_in_bytes", "3221225472"),
            ("groups/memory/job/memory.usage_in_bytes", "2147483648"),
            ("groups/memory/job/memory.stat", "total_inactive_file 1073741824\n"),
            ("groups/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("groups/memory/memory.usage_in_bytes", "5"),
        ];
        assert_eq!(system(&files).unwrap().bytes, 2 * GIB);
    }

    #[test]
    fn limits_of_the_process_count_from_what_it_has_taken() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax address space         4294967296           unlimited            bytes\nMax data size             unlimited            unlimited            bytes\n";
        let files = [("proc/self/limits", limits), ("proc/self/status", "VmSize:\t 1048576 kB\nVmData:\t 5 kB\n")];
        assert_eq!(system(&files), Some(Room { bytes: 3 * GIB, limit: "the process (`ulimit`)" }));
    }

    #[test]
    fn this_machine_has_memory_and_this_directory_has_a_disk() {
        if cfg!(target_os = "linux") {
            assert!(memory().unwrap().bytes > 1 << 20);
        }
        if cfg!(unix) {
            assert!(disk(Path::new("a/path/that/does/not/exist/yet")).unwrap() > 0);
        }
        let refused = need(u128::MAX, || "this".into());
        assert_eq!(refused.err().map(|e| e.kind.exit_code()), cfg!(target_os = "linux").then_some(6));
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_suits_them() {
        assert_eq!((shown(512), shown(3 << 29)), ("512 B".into(), "1.5 GiB".into()));
    }
}
