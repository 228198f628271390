//! Memory of this process that no tensor holds.

/// Gives memory that was freed, and that the allocator keeps for later, back to the system, as far as it has a way to.
/// What reading data leaves behind would otherwise stay beside all that a run needs.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, touches no memory that is in use, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_was_freed_is_given_back() {
        let held = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
        };
        // Other tests take and give memory meanwhile: one of some attempts must show it
        let mut shown = Vec::new();
        for _ in 0..10 {
            // Small pieces, of which the last stays: the allocator cannot shrink the heap by itself
            let mut pieces: Vec<Vec<u8>> = (0..4000).map(|_| vec![1; 16 << 10]).collect();
            let last = pieces.pop();
            drop(pieces);
            let before = held();
            super::return_freed_memory();
            let after = held();
            drop(last);
            shown.push((before, after));
            if before.saturating_sub(after) > 30 << 20 {
                return;
            }
        }
        panic!("before and after: {shown:?}");
    }
}
