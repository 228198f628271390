//! All runs below a folder, found and read again when somebody asks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::Record;

/// Folders within folders.
const DEPTH: usize = 6;
/// Folders that are looked into, and runs that are shown.
const MAX_FOLDERS: usize = 20_000;
const MAX_RUNS: usize = 5_000;
/// Runs whose curves and samples are kept.
const MAX_OPEN: usize = 32;
/// Bytes that are read while one page is made; what is left comes with the next.
const BUDGET: u64 = 256 << 20;

/// The runs.
pub(super) struct Store {
    root: PathBuf,
    records: BTreeMap<String, Record>,
    /// Runs beyond what is shown.
    pub left_out: usize,
    /// How long what was read holds.
    every: Duration,
    read: Option<Instant>,
    used: u64,
}

impl Store {
    /// Of the runs below `root`; what was read holds for `every`.
    pub fn new(root: PathBuf, every: Duration) -> Self {
        Self {
            root,
            records: BTreeMap::new(),
            left_out: 0,
            every,
            read: None,
            used: 0,
        }
    }

    /// Finds runs that came, forgets those that went, and reads what is new. Curves and samples of `wanted` runs are kept from
    /// now on, and those of the runs that were not looked at for longest are let go.
    pub fn refresh(&mut self, wanted: &[String]) {
        let fresh = self.read.is_some_and(|read| read.elapsed() < self.every);
        let open = |name: &String| self.records.get(name).is_none_or(|record| record.open.is_some());
        if fresh && wanted.iter().all(open) {
            self.touch(wanted);
            return;
        }
        self.find();
        self.touch(wanted);
        let mut budget = BUDGET;
        // What is looked at comes first
        for name in wanted {
            if let Some(record) = self.records.get_mut(name) {
                record.refresh(&mut budget);
            }
        }
        for record in self
            .records
            .values_mut()
            .filter(|record| !wanted.contains(&record.name))
        {
            record.refresh(&mut budget);
        }
        self.read = Some(Instant::now());
    }

    fn touch(&mut self, wanted: &[String]) {
        self.used += 1;
        for name in wanted {
            if let Some(record) = self.records.get_mut(name) {
                record.used = self.used;
                record.keep();
            }
        }
        let mut open: Vec<&mut Record> = self
            .records
            .values_mut()
            .filter(|record| record.open.is_some())
            .collect();
        if open.len() > MAX_OPEN {
            open.sort_by_key(|record| record.used);
            let surplus = open.len() - MAX_OPEN;
            open.into_iter().take(surplus).for_each(Record::let_go);
        }
    }

    fn find(&mut self) {
        let mut found = BTreeMap::new();
        if is_run(&self.root) {
            let name = self
                .root
                .file_name()
                .map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
            found.insert(name, self.root.clone());
        } else {
            let mut folders = 0;
            walk((&self.root, ""), DEPTH, &mut folders, &mut found);
        }
        self.left_out = found.len().saturating_sub(MAX_RUNS);
        self.records.retain(|name, _| found.contains_key(name));
        for (name, dir) in found.into_iter().take(MAX_RUNS) {
            self.records
                .entry(name)
                .or_insert_with_key(|name| Record::new(name.clone(), dir));
        }
    }

    /// The run of this name.
    pub fn get(&self, name: &str) -> Option<&Record> {
        self.records.get(name)
    }

    /// All runs, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Bytes that are still to be read.
    pub fn unread(&self) -> u64 {
        self.iter().map(Record::unread).sum()
    }
}

fn is_run(dir: &Path) -> bool {
    fs::symlink_metadata(dir.join("run.toml")).is_ok_and(|metadata| metadata.is_file())
}

/// Runs below a folder, by their names. Links are not followed, hidden folders and the insides of runs are passed over.
fn walk((dir, name): (&Path, &str), depth: usize, folders: &mut usize, found: &mut BTreeMap<String, PathBuf>) {
    *folders += 1;
    // A folder that goes away meanwhile, or is somebody else's, has no runs
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(file) = file.to_str().filter(|file| !file.starts_with('.')) else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || *folders >= MAX_FOLDERS {
            continue;
        }
        let inside = if name.is_empty() {
            file.to_owned()
        } else {
            format!("{name}/{file}")
        };
        if is_run(&entry.path()) {
            found.insert(inside, entry.path());
        } else if depth > 1 {
            walk((&entry.path(), &inside), depth - 1, folders, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(root: &Path, name: &str, lines: usize) {
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("run.toml"), "[ppo]\nupdates = 9\n").unwrap();
        let line = |step| format!("{{\"step\":{step},\"loss\":{step}}}\n");
        fs::write(dir.join("metrics.jsonl"), (1..=lines).map(line).collect::<String>()).unwrap();
    }

    fn names(store: &Store) -> Vec<&str> {
        store.iter().map(|record| record.name.as_str()).collect()
    }

    #[test]
    fn runs_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        run(root, "a", 3);
        run(root, "deep/er/b", 2);
        run(root, "a/checkpoints/inside", 1);
        run(root, ".hidden", 1);
        fs::write(root.join("file"), "").unwrap();
        let mut store = Store::new(root.to_path_buf(), Duration::ZERO);
        store.refresh(&[]);
        assert_eq!(names(&store), ["a", "deep/er/b"]);
        assert_eq!(
            store
                .get("a")
                .map(|record| (record.step(), record.total(), record.stage())),
            Some((3, Some(9), "ppo"))
        );
        run(root, "c", 1);
        fs::remove_dir_all(root.join("deep")).unwrap();
        store.refresh(&["a".to_owned(), "absent".to_owned()]);
        assert_eq!(names(&store), ["a", "c"]);
        assert!(store.get("a").unwrap().open.is_some() && store.get("c").unwrap().open.is_none());
        // The folder may be a run itself, or go away
        let mut one = Store::new(root.join("a"), Duration::ZERO);
        one.refresh(&[]);
        assert_eq!(names(&one), ["a"]);
        fs::remove_dir_all(root).unwrap();
        store.refresh(&[]);
        assert!(names(&store).is_empty());
        fs::create_dir_all(root).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(other.path(), "elsewhere", 1);
        std::os::unix::fs::symlink(other.path(), folder.path().join("link")).unwrap();
        run(folder.path(), "own", 1);
        let mut store = Store::new(folder.path().to_path_buf(), Duration::ZERO);
        store.refresh(&[]);
        assert_eq!(names(&store), ["own"]);
    }

    #[test]
    fn curves_of_few_runs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let count = MAX_OPEN + 8;
        for i in 0..count {
            run(folder.path(), &format!("{i:03}"), 2);
        }
        let mut store = Store::new(folder.path().to_path_buf(), Duration::ZERO);
        for i in 0..count {
            store.refresh(&[format!("{i:03}")]);
        }
        let open: Vec<&str> = store
            .iter()
            .filter(|record| record.open.is_some())
            .map(|record| record.name.as_str())
            .collect();
        assert_eq!(open.len(), MAX_OPEN);
        assert_eq!((open[0], open[MAX_OPEN - 1]), ("008", "039"));
        // What was let go is read again when it is wanted
        store.refresh(&["000".to_owned()]);
        let first = store.get("000").unwrap();
        assert_eq!(first.figures.get("loss").map(|loss| loss.count), Some(2));
        assert!(first.open.as_ref().is_some_and(|open| open.curves.names().eq(["loss"])));
    }
}
