//! Keeping secrets.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::model::secret::Secret;

/// Writes the secret whole or not at all, readable by this user alone; `false` when the file is there already.
pub fn write_new(path: &Path, secret: &Secret) -> io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.display();
    let draft = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", secret.expose())?;
        // What was signed or hashed under a secret is lost with it: it is on the disk before it is used.
        file.sync_all()?;
        // A link fails where a name exists: two processes at their first start end with one secret.
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            linked => linked?,
        }
        File::open(folder)?.sync_all()?;
        Ok(true)
    })();
    let removed = std::fs::remove_file(&draft);
    written.and_then(|written| removed.map(|()| written))
}

/// Why a secret is not made that was there while this process ran: whatever was signed or hashed under it would end, and
/// the file may be back in a moment.
pub(super) const GONE: &str = "it was there, and is gone";

/// Why a key is not made that could not be.
pub(super) const NOT_MADE: &str = "it is not there, and keys of this algorithm are not made here";

/// Editors and `echo` end a file with a line break that is no part of the secret.
pub(super) fn without_newline(text: &str) -> Secret {
    Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// What [`reason`] says where a file is there and not ours.
pub(super) const DENIED: &str = "this user may not read or write it";

/// The error in the words of whoever has to mend it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".into(),
        ErrorKind::PermissionDenied => DENIED.into(),
        ErrorKind::IsADirectory => "it is a directory".into(),
        ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_break_at_the_end_is_no_part_of_a_secret() {
        for (text, secret) in [("a b \n", "a b "), (" a\r\n", " a"), ("a\nb\n\n", "a\nb"), ("a", "a")] {
            assert_eq!(without_newline(text), Secret::new(secret.into()));
        }
    }
}
