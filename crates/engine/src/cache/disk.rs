//! The directory of a cache: one file for each state and for each 64 tokens of keys, named by its key.
//!
//! Files are written to a temporary name and renamed, and do not change afterwards; they can be copied, shared by processes, and
//! deleted at any time. A file is believed once the hash of its bytes is right, and removed otherwise. The directory is its own
//! index: nothing has to be repaired after a crash.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::{Header, Kind, Tensors, decode, peek};
use super::key::Key;

/// The longest header that is read to list a file.
const LONGEST_HEADER: u64 = 16 << 20;
/// A temporary file that is older than this belongs to no process that still writes it.
const ABANDONED_SECONDS: u64 = 600;

/// What is known of a file.
#[derive(Clone, Debug)]
struct Listed {
    header: Header,
    bytes: u64,
    used: SystemTime,
}

/// The files of a directory, as of the last look at it and what was written since.
pub(super) struct Disk {
    directory: PathBuf,
    budget: u64,
    files: HashMap<Key, Listed>,
    bytes: u64,
    pub(super) evictions: u64,
}

/// The name of the file of a key.
fn name(key: &Key, kind: Kind) -> PathBuf {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(&hex[..2]).join(format!("{}.{}", &hex[2..], kind.ending()))
}

/// The key and the kind that a file is named by.
fn named(folder: &str, file: &str) -> Option<(Key, Kind)> {
    let (stem, ending) = file.split_once('.')?;
    let kind = [Kind::State, Kind::Rows].into_iter().find(|kind| kind.ending() == ending)?;
    let hex = [folder, stem].concat();
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some((key, kind))
}

/// Makes a directory that only its owner can read, with those above it.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Writes a new file that only its owner can read, by way of a temporary name.
pub(super) fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}-{n}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let attempt = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&temporary)?.write_all(bytes)?;
        fs::rename(&temporary, file)
    };
    attempt().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// The file of a key, if it is there and its hash is right. One that is damaged is removed: `Err(())`.
pub(super) fn load(directory: &Path, key: &Key, kind: Kind) -> Result<Option<(Header, Tensors)>, ()> {
    let file = directory.join(name(key, kind));
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => {
            let _ = fs::remove_file(&file);
            return Err(());
        }
    };
    match decode(&bytes, key).filter(|(header, _)| header.kind == kind) {
        Some(found) => {
            // Whoever removes files for others sees that it was used.
            let _ = File::options().append(true).open(&file).and_then(|file| file.set_modified(SystemTime::now()));
            Ok(Some(found))
        }
        None => {
            let _ = fs::remove_file(&file);
            Err(())
        }
    }
}

/// Whether there is a file of this key.
pub(super) fn has(directory: &Path, key: &Key, kind: Kind) -> bool {
    directory.join(name(key, kind)).exists()
}

/// Removes the file of a key.
pub(super) fn remove(directory: &Path, key: &Key, kind: Kind) {
    let _ = fs::remove_file(directory.join(name(key, kind)));
}

impl Disk {
    pub(super) fn new(directory: PathBuf, budget: u64) -> Self {
        Self { directory, budget, files: HashMap::new(), bytes: 0, evictions: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    pub(super) fn states(&self) -> usize {
        self.files.values().filter(|listed| listed.header.kind == Kind::State).count()
    }

    /// Looks at the directory anew: the files of all processes, and temporary ones that were abandoned, which are removed.
    pub(super) fn list(&mut self) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.files);
        self.bytes = 0;
        for folder in fs::read_dir(&self.directory)? {
            let folder = folder?;
            let Ok(files) = fs::read_dir(folder.path()) else { continue };
            for file in files.flatten() {
                let (Ok(found), Ok(metadata)) = (file.file_name().into_string(), file.metadata()) else { continue };
                if found.contains(".tmp-") {
                    remove_abandoned(&file.path(), &metadata);
                    continue;
                }
                let Some((key, kind)) = folder.file_name().to_str().and_then(|folder| named(folder, &found)) else {
                    continue;
                };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let known = before.remove(&key).filter(|listed| listed.bytes == metadata.len());
                let header = known.map(|listed| listed.header).or_else(|| header_of(&file.path()));
                match header.filter(|header| header.kind == kind && header.key == key) {
                    Some(header) => {
                        self.bytes += metadata.len();
                        self.files.insert(key, Listed { header, bytes: metadata.len(), used });
                    }
                    None => {
                        let _ = fs::remove_file(file.path());
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes room for a state and its rows, of `bytes` together. Returns whether there is enough.
    pub(super) fn reserve(&mut self, bytes: u64, header: &Header) -> bool {
        if bytes > self.budget {
            return false;
        }
        self.make_room(bytes, header);
        self.bytes + bytes <= self.budget
    }

    /// Writes a file, unless it is there. Returns whether it is: the budget may be too small.
    pub(super) fn write(&mut self, header: Header, bytes: &[u8]) -> io::Result<bool> {
        let file = self.directory.join(name(&header.key, header.kind));
        if file.exists() {
            return Ok(true);
        }
        let size = bytes.len() as u64;
        if self.bytes + size > self.budget {
            return Ok(false);
        }
        if let Some(folder) = file.parent() {
            make_private(folder)?;
        }
        write_private(&file, bytes)?;
        self.bytes += size;
        self.files.insert(header.key, Listed { header, bytes: size, used: SystemTime::now() });
        Ok(true)
    }

    /// Removes files until `more` bytes have room. Those of rows that no state needs go first, then the state that is worth least,
    /// by the formula of [`Ram`](super::ram::Ram) with the age in states that were used since. A state to be written does not
    /// displace its own rows.
    fn make_room(&mut self, more: u64, for_one: &Header) {
        let wanted: HashSet<Key> = for_one.reached.iter().flat_map(|(_, keys)| keys).copied().collect();
        while self.bytes + more > self.budget {
            let mut needed: HashMap<Key, usize> = HashMap::new();
            for key in self.files.values().flat_map(|listed| &listed.header.reached).flat_map(|(_, keys)| keys) {
                *needed.entry(*key).or_default() += 1;
            }
            let unneeded = |key: &Key, listed: &Listed| {
                listed.header.kind == Kind::Rows && !needed.contains_key(key) && !wanted.contains(key)
            };
            let oldest = self.files.iter().filter(|(key, listed)| unneeded(key, listed)).min_by_key(|(_, l)| l.used);
            let gone = oldest.map(|(key, _)| *key).or_else(|| self.least(&needed));
            let Some(listed) = gone.and_then(|key| self.files.remove(&key)) else { return };
            remove(&self.directory, &listed.header.key, listed.header.kind);
            self.bytes -= listed.bytes;
            self.evictions += 1;
        }
    }

    /// The state that is worth least; `needed` has the number of states that need each file of rows.
    fn least(&self, needed: &HashMap<Key, usize>) -> Option<Key> {
        let mut states: Vec<(&Key, &Listed)> =
            self.files.iter().filter(|(_, listed)| listed.header.kind == Kind::State).collect();
        states.sort_by_key(|(key, listed)| (std::cmp::Reverse(listed.used), **key));
        let value = |(newer, (key, listed)): (usize, &(&Key, &Listed))| {
            let rows = listed.header.reached.iter().flat_map(|(_, keys)| keys);
            let own = rows.filter(|key| needed.get(*key) == Some(&1)).filter_map(|key| self.files.get(key));
            let bytes = listed.bytes + own.map(|rows| rows.bytes).sum::<u64>();
            let worth = listed.header.worth;
            let finite = if worth.weight.is_finite() { worth.weight.clamp(0.0, 1e6) } else { 0.0 };
            (**key, finite * worth.gap as f64 * (-(newer as f64) / 240.0).exp2() / bytes.max(1) as f64)
        };
        states.iter().enumerate().map(value).min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(key, _)| key)
    }
}

/// The header of a file, of which no more is read than that.
fn header_of(file: &Path) -> Option<Header> {
    let open = File::open(file).ok()?;
    let mut bytes = Vec::new();
    let mut most = 4096;
    loop {
        let before = bytes.len() as u64;
        (&open).take(most - before).read_to_end(&mut bytes).ok()?;
        match peek(&bytes) {
            Some(header) => return Some(header),
            None if bytes.len() as u64 == most && most < LONGEST_HEADER => most *= 16,
            None => return None,
        }
    }
}

fn remove_abandoned(file: &Path, metadata: &fs::Metadata) {
    let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    let writer = file.to_str().and_then(|name| name.rsplit(".tmp-").next()?.split('-').next()?.parse::<u32>().ok());
    let gone = cfg!(target_os = "linux") && writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    if gone || age.is_some_and(|age| age.as_secs() > ABANDONED_SECONDS) {
        let _ = fs::remove_file(file);
    }
}
