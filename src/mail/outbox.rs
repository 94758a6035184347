//! Mails as files, for development: `<time>-<id>.eml`, which mail programs open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::message::Letter;
use super::{DeliveryError, Stage};

/// The folder.
#[derive(Debug)]
pub(super) struct Outbox {
    folder: PathBuf,
}

impl Outbox {
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes a mail's file: whole or not at all, and for our eyes only, since a token stands in it. The same mail
    /// again is the same file again.
    pub async fn put(&self, letter: &Letter) -> Result<(), DeliveryError> {
        let stamp = letter.made_at.to_rfc3339().replace(':', "");
        let file = self.folder.join(format!("{stamp}-{}.eml", letter.id));
        let new = self.folder.join(format!(".{stamp}-{}.new", letter.id));
        let (folder, bytes) = (self.folder.clone(), letter.bytes.clone());
        let shown = folder.display().to_string();
        let written = tokio::task::spawn_blocking(move || write(&folder, &new, &file, &bytes)).await;
        let written = written.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
        written.map_err(|error| DeliveryError::temporary(Stage::Outbox, format!("{shown}: {error}")))
    }
}

fn write(folder: &Path, new: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(new, file)?;
        File::open(folder)?.sync_all()
    };
    // A disk that is full must not fill up with beginnings as well.
    write().inspect_err(|_| drop(fs::remove_file(new)))
}
