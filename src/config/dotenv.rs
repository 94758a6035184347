//! Variables from a `.env` file, as the tools of a product's developers read it: `NAME=value` lines, `export`,
//! quotes, comments.
//!
//! They fill a map that was read from the process's environment, and never that environment itself: whatever is set
//! there wins. A `$` stands for itself, as in a file of secrets it must. Called by `cli`, for the file in the working
//! directory; no message ever shows what the file holds.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::disk::reason;
use super::env::Env;
use super::footprint::Footprint;
use crate::contract::source::Located;

/// Adds to `env` what the file at `path` sets and `env` does not. No such file: nothing to add.
pub fn fill(env: &mut Env, path: &Path) -> Result<(), Located> {
    let text = match Footprint::default().read_text(path) {
        Ok(text) => text,
        // A folder of that name is a virtual environment of Python's, and no business of ours.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => return Ok(()),
        Err(error) => {
            let message = format!("cannot read the file: {}", reason(&error));
            return Err(wrong(path, 0, message, "let this user read it, or remove it"));
        }
    };
    let found = parse(&text).map_err(|(line, bad)| {
        let remedy = match bad {
            Bad::Nul => "write text",
            Bad::Line => "write NAME=value or NAME='a value with spaces'; a comment begins with #",
        };
        let message = match bad {
            Bad::Nul => "there is a NUL byte, which no variable can hold",
            Bad::Line => "this is not NAME=value",
        };
        wrong(path, line, message.into(), remedy)
    })?;
    for (name, value) in found {
        env.entry(name).or_insert(value);
    }
    Ok(())
}

fn wrong(path: &Path, line: usize, message: String, remedy: &str) -> Located {
    let file = path.display().to_string();
    Located { file, line, column: line.min(1), key: String::new(), message, remedy: remedy.into() }
}

/// Why a text is no `.env` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Line,
    Nul,
}

/// The variables, the last of a name; or the line, from 1, that cannot be read.
fn parse(text: &str) -> Result<Env, (usize, Bad)> {
    if let Some(at) = text.find('\0') {
        return Err((text[..at].matches('\n').count() + 1, Bad::Nul));
    }
    let taken = Cell::new(0);
    let plain = without_dollars(text.trim_start_matches('\u{feff}'));
    let lines = Lines { rest: plain.as_bytes(), taken: &taken };
    let mut found = Env::new();
    for entry in dotenvy::from_read_iter(lines) {
        let (name, value) = entry.map_err(|error| {
            // The entry may span lines: its first is where to look. Its text is not repeated, for it is a secret.
            let length = match &error {
                dotenvy::Error::LineParse(entry, _) => entry.lines().count().max(1),
                _ => 1,
            };
            ((taken.get() + 1).saturating_sub(length).max(1), Bad::Line)
        })?;
        found.insert(name, value.replace('\0', "$"));
    }
    Ok(found)
}

/// The text with a NUL for every `$` that is not escaped: the crate would fill in variables of the process there, and
/// quietly cut `pa$$word` short. Ends with a line break, without which the crate takes trailing space for half a line.
fn without_dollars(text: &str) -> String {
    let mut plain = String::with_capacity(text.len() + 1);
    let mut escaped = false;
    for each in text.chars() {
        plain.push(if each == '$' && !escaped { '\0' } else { each });
        escaped = each == '\\' && !escaped;
    }
    plain.push('\n');
    plain
}

/// Gives one line at a time, and counts them: the crate tells no lines.
struct Lines<'t> {
    rest: &'t [u8],
    taken: &'t Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let line = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let length = line.min(buffer.len());
        let (now, later) = self.rest.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.rest = later;
        self.taken.set(self.taken.get() + usize::from(now.ends_with(b"\n")));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|bad| panic!("{bad:?}")).into_iter().collect()
    }

    fn value(text: &str) -> String {
        read(text).remove(0).1
    }

    #[test]
    fn what_the_documents_show_is_read() {
        let text = "# StackAudit\nJWT_SECRET=abc\n\nexport JWT_SECRET_KEY=\"your-secret-key-here\"\r\n\
                    export JWT_ALGORITHM='HS512' # longer\nJWT_EXPIRATION=3600";
        let wanted = [
            ("JWT_ALGORITHM", "HS512"),
            ("JWT_EXPIRATION", "3600"),
            ("JWT_SECRET", "abc"),
            ("JWT_SECRET_KEY", "your-secret-key-here"),
        ];
        assert_eq!(read(text), wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_value_is_what_stands_there_and_nothing_is_filled_in() {
        for (line, wanted) in [
            ("A=", ""),
            ("A = b", "b"),
            ("A=b   ", "b"),
            ("A=b#c", "b#c"),
            ("A=b #c", "b"),
            ("A=\"two words # here\"", "two words # here"),
            ("A='it is \"so\"'", "it is \"so\""),
            ("A=\"one\\ntwo\"", "one\ntwo"),
            ("A=\"-----BEGIN\nxyz\n-----END\"", "-----BEGIN\nxyz\n-----END"),
            ("A=pa$$word$PATH", "pa$$word$PATH"),
            ("A=\"pa${HOME}$\"", "pa${HOME}$"),
            ("A='pa$HOME'", "pa$HOME"),
            ("A=pa\\$HOME", "pa$HOME"),
            ("A=first\nA=second", "second"),
            ("\u{feff}A=b", "b"),
            ("A=b=c==", "b=c=="),
            ("A=päss", "päss"),
        ] {
            assert_eq!(value(line), wanted, "{line}");
        }
        assert_eq!(read(" \n# A=b\n\n"), []);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_never_shown() {
        for (text, line) in [
            ("A=b\n\n# c\nhunter2 hunter2\nB=c", 4),
            ("A=hunter2 hunter2", 1),
            ("A=b\nB='hunter2\nhunter2\n\n", 2),
            ("A=b\nB=don't hunter2\nC=d", 2),
            ("9=hunter2", 1),
            ("A=\"hunter2\\q\"", 1),
        ] {
            assert_eq!(parse(text), Err((line, Bad::Line)), "{text}");
        }
        assert_eq!(parse("A=b\nB=\0"), Err((2, Bad::Nul)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, "A=b\nB=hunter2 hunter2\n").unwrap();
        let told = fill(&mut Env::new(), &path).unwrap_err().to_string();
        let wanted = ":2:1: this is not NAME=value\n    help: write NAME=value or NAME='a value with spaces'; a comment begins with #";
        assert_eq!(told, format!("{}{wanted}", path.display()));
    }

    #[test]
    fn the_process_wins_over_the_file_and_keeps_its_own_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, "TOLLGATE_TEST_A=file\nTOLLGATE_TEST_B=file\nTOLLGATE_TEST_C=file\n").unwrap();
        let mut env: Env = [("TOLLGATE_TEST_A", "process"), ("TOLLGATE_TEST_B", "")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        fill(&mut env, &path).unwrap();
        let values: Vec<_> = env.values().map(String::as_str).collect();
        assert_eq!(values, ["process", "", "file"]);
        assert_eq!(std::env::var_os("TOLLGATE_TEST_C"), None);
    }

    #[test]
    fn no_file_is_nothing_and_neither_is_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = Env::new();
        assert_eq!(fill(&mut env, &folder.path().join(".env")), Ok(()));
        assert_eq!(fill(&mut env, folder.path()), Ok(()));
        std::fs::write(folder.path().join("bytes"), [0xff, 0xfe]).unwrap();
        let told = fill(&mut env, &folder.path().join("bytes")).unwrap_err();
        assert_eq!(told.message, "cannot read the file: it is not UTF-8 text");
        assert!(env.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([A-C]|[='\"\\\\$#{} \t\r\n\0é]|export ){0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_quoted_secret_comes_back_whole(secret in "[!-&(-\\[\\]-~]{1,60}") {
            prop_assert_eq!(value(&format!("A='{secret}'")), secret);
        }
    }
}
