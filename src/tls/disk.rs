//! Keys on disk: written whole or not at all, and for our eyes only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::TlsError;

/// Makes `directory` and holds off a second gateway that starts at the same time, until dropped. The
/// folder itself is locked: it may be read-only once everything is in it.
pub(super) fn lock(directory: &Path) -> Result<File, TlsError> {
    let open = || {
        fs::create_dir_all(directory)?;
        let lock = File::open(directory)?;
        lock.lock()?;
        Ok(lock)
    };
    open().map_err(|source| TlsError::Write { file: directory.to_owned(), source })
}

/// Writes `bytes` to `file`, whole or not at all, and never readable for others meanwhile.
pub(super) fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().create_new(true).write(true).mode(mode).open(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|source| TlsError::Write { file: file.to_owned(), source })
}

/// Takes a key back from everyone else who may read it.
pub(super) fn make_private(key: &Path) -> Result<(), TlsError> {
    let narrow = || {
        if fs::metadata(key)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(key, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    narrow().map_err(|source| TlsError::Write { file: key.to_owned(), source })
}
