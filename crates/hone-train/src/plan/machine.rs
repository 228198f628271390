//! Memory of the machine and of this process, as far as the operating system says.

use std::fs;

use serde::Serialize;

/// What there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MachineMemory {
    /// All memory, or the limit of the control group where that is lower.
    pub total: u64,
    /// What this process can hold in all: what it holds, and what is free or can be freed of caches.
    pub available: u64,
    /// Whether a control group (a container's limit) is what bounds it.
    pub limited: bool,
}

/// Memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// Held now.
    pub now: u64,
    /// The most it has held.
    pub peak: u64,
}

impl ProcessMemory {
    /// As Linux says; zeros elsewhere.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            now: kib(&status, "VmRSS:").unwrap_or(0),
            peak: kib(&status, "VmHWM:").unwrap_or(0),
        }
    }
}

impl MachineMemory {
    /// As Linux says; none elsewhere.
    pub fn read() -> Option<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = ProcessMemory::read().now;
        Self::of(&meminfo, control_group(&groups), own)
    }

    fn of(meminfo: &str, group: Option<ControlGroup>, own: u64) -> Option<Self> {
        let (total, free) = (kib(meminfo, "MemTotal:")?, kib(meminfo, "MemAvailable:")?);
        let machine = Self {
            total,
            available: (free + own).min(total),
            limited: false,
        };
        let Some(group) = group.filter(|group| group.limit < total) else {
            return Some(machine);
        };
        let within = group.limit.saturating_sub(group.used) + own;
        Some(Self {
            total: group.limit,
            available: within.min(group.limit).min(machine.available),
            limited: true,
        })
    }
}

/// A bound on the memory of a group of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ControlGroup {
    limit: u64,
    /// Without caches of files, which are freed when memory is short.
    used: u64,
}

/// The tightest bound of the groups that this process is in, of either version.
fn control_group(groups: &str) -> Option<ControlGroup> {
    let mut tightest: Option<ControlGroup> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, files) = match controllers {
            "" => ("/sys/fs/cgroup", ["memory.max", "memory.current", "file"]),
            c if c.split(',').any(|c| c == "memory") => (
                "/sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"],
            ),
            _ => continue,
        };
        // The group, then those it lies in; inside a container the path may not be there, and the root is the group
        let mut path = path.trim_matches('/');
        loop {
            let folder = format!("{root}/{path}");
            let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(current)) = (number(files[0]), number(files[1])) {
                let cached = read("memory.stat").and_then(|stat| bytes(&stat, files[2])).unwrap_or(0);
                let used = current.saturating_sub(cached);
                let left = |g: &ControlGroup| g.limit.saturating_sub(g.used);
                let group = ControlGroup { limit, used };
                if tightest.is_none_or(|other| left(&group) < left(&other)) {
                    tightest = Some(group);
                }
            }
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None if path.is_empty() => break,
                None => path = "",
            }
        }
    }
    tightest
}

/// The number behind `name`, in kibibytes, as bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

/// The number of the line `name number`.
fn bytes(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\n";

    #[test]
    fn what_is_available_is_held_or_free() {
        let memory = MachineMemory::of(MEMINFO, None, 1000 * 1024).unwrap();
        assert_eq!((memory.total, memory.available), (16_000 * 1024, 10_000 * 1024));
        assert!(!memory.limited);
        assert_eq!(MachineMemory::of("MemTotal: 5 kB", None, 0), None);
    }

    #[test]
    fn a_control_group_bounds_it() {
        let group = |limit: u64, used: u64| {
            Some(ControlGroup {
                limit: limit * 1024,
                used: used * 1024,
            })
        };
        let tight = MachineMemory::of(MEMINFO, group(4000, 2500), 500 * 1024).unwrap();
        assert_eq!(
            (tight.total, tight.available, tight.limited),
            (4000 * 1024, 2000 * 1024, true)
        );
        // One that is wider than the machine does not matter
        let wide = MachineMemory::of(MEMINFO, group(1 << 40, 0), 0).unwrap();
        assert_eq!((wide.total, wide.limited), (16_000 * 1024, false));
        // What the machine lacks is not there, whatever the group allows
        let short = MachineMemory::of(MEMINFO, group(15_000, 0), 0).unwrap();
        assert_eq!(short.available, 9000 * 1024);
    }

    #[test]
    fn files_of_the_system_are_read() {
        assert_eq!(kib("VmHWM:\t  12 kB\n", "VmHWM:"), Some(12 * 1024));
        assert_eq!(bytes("anon 5\nfile 77\n", "file"), Some(77));
        assert_eq!(control_group("12:cpu:/a\nnonsense\n"), None);
        #[cfg(target_os = "linux")]
        {
            let memory = MachineMemory::read().unwrap();
            assert!(memory.available > 0 && memory.available <= memory.total);
            let process = ProcessMemory::read();
            assert!(process.now > 0 && process.now <= process.peak);
        }
    }
}
