//! What a configuration was read from, and whether that has changed since.
//!
//! Loading notes every file with a digest of what it read there ([`Footprint`]), whether it succeeds or not: a broken
//! include is watched as well, so that mending it is enough. [`Watch`] compares the files with that. It looks at the
//! clock of a file first and at its text only where that moved; a file that was only touched is no change. What can be read
//! only once (a pipe: `--config <(decrypt gateway.toml)`) is not watched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// No configuration, contract, key or secret is longer: a device or a log named by mistake is not read to its end.
const MAX_FILE: u64 = 16 << 20;

type Digest = [u8; 32];

/// Files by path, each with a digest of its bytes; `None`: it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(BTreeMap<PathBuf, Option<Digest>>);

impl Footprint {
    /// Notes the file as it is now.
    pub fn note(&mut self, path: &Path) {
        // Whoever wants the text asks for it and is told what is wrong.
        let _ = self.read(path);
    }

    /// Takes over what the other noted.
    pub fn join(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(path, digest)| (path.clone(), *digest)));
    }

    /// The file's text, noted.
    pub(super) fn read_text(&mut self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.read(path)?).map_err(|_| ErrorKind::InvalidData.into())
    }

    /// The file's bytes, noted.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = read(path);
        self.0.insert(path.to_owned(), bytes.as_ref().ok().map(|bytes| digest_of(bytes)));
        bytes
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_FILE { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn digest_of(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Looks whether files are still what they were when they were read.
#[derive(Debug)]
pub struct Watch {
    read: Footprint,
    seen: BTreeMap<PathBuf, (Option<Mark>, Option<Digest>)>,
}

/// What moves whenever a file is written or replaced, also behind a symbolic link: device, inode, length, and the times
/// of its last change of contents and of anything at all, in nanoseconds.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

impl Watch {
    /// Begins to watch what was read.
    pub fn new(read: Footprint) -> Self {
        let seen = read.0.iter().map(|(path, digest)| (path.clone(), (None, *digest))).collect();
        Self { read, seen }
    }

    /// Whether something differs from what was read and is at rest: as it was at the look before. Somebody who copies
    /// several files is so let finish. Blocks for as long as the disk does.
    pub fn changed(&mut self) -> bool {
        let (mut differs, mut moves) = (false, false);
        for (path, read) in &self.read.0 {
            if is_read_once(path) {
                continue;
            }
            let mark = mark(path);
            let (seen, digest) = self.seen.entry(path.clone()).or_insert((None, *read));
            if *seen != mark || mark.is_none() {
                let now = self::read(path).ok().map(|bytes| digest_of(&bytes));
                moves |= now != *digest;
                (*seen, *digest) = (mark, now);
            }
            differs |= *digest != *read;
        }
        differs && !moves
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let it = std::fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.len(), (it.mtime(), it.mtime_nsec()), (it.ctime(), it.ctime_nsec())))
}

/// Whether looking is not for us: it would take away what another waits for, or wait for what nobody writes.
fn is_read_once(path: &Path) -> bool {
    let kind = std::fs::metadata(path).map(|it| it.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(folder: &Path, names: &[&str]) -> Watch {
        let mut footprint = Footprint::default();
        for name in names {
            footprint.note(&folder.join(name));
        }
        Watch::new(footprint)
    }

    #[test]
    fn a_change_counts_once_it_is_at_rest_and_a_touch_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "one").unwrap();
        let mut watch = watched(folder.path(), &["a.toml"]);
        assert_eq!([watch.changed(), watch.changed()], [false, false]);
        // The same text in another file of that name.
        std::fs::write(folder.path().join("new"), "one").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        assert_eq!([watch.changed(), watch.changed()], [false, false]);
        std::fs::write(&file, "two").unwrap();
        assert!(!watch.changed(), "somebody may still be writing");
        std::fs::write(&file, "three").unwrap();
        assert_eq!([watch.changed(), watch.changed(), watch.changed()], [false, true, true]);
        // Back to what was read: nothing is to be done any more.
        std::fs::write(&file, "one").unwrap();
        assert_eq!([watch.changed(), watch.changed()], [false, false]);
    }

    #[test]
    fn a_file_that_appears_or_goes_is_a_change_and_so_is_a_link_that_leads_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("first"), "1").unwrap();
        std::fs::write(at("second"), "2").unwrap();
        std::os::unix::fs::symlink("first", at("link")).unwrap();
        let mut link = watched(folder.path(), &["link"]);
        let mut gone = watched(folder.path(), &["first"]);
        let mut missing = watched(folder.path(), &["late"]);
        assert_eq!([link.changed(), gone.changed(), missing.changed()], [false; 3]);
        std::os::unix::fs::symlink("second", at("other")).unwrap();
        std::fs::rename(at("other"), at("link")).unwrap();
        std::fs::remove_file(at("first")).unwrap();
        std::fs::write(at("late"), "3").unwrap();
        assert_eq!([link.changed(), gone.changed(), missing.changed()], [false; 3]);
        assert_eq!([link.changed(), gone.changed(), missing.changed()], [true; 3]);
    }
}
