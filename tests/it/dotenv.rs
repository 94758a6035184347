//! A `.env` file where the gateway is started.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::binary;

const SECRET: &str = "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA";

/// `tollgate check` of the ready file in `folder`, with no environment but `set`.
fn check(folder: &Path, set: &[(&str, &str)]) -> Output {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rag-modulo.toml");
    let mut command = Command::new(binary());
    command.args(["check", "--config", config]).current_dir(folder).env_clear().envs(set.iter().copied());
    command.output().expect("the binary runs")
}

#[test]
fn a_file_of_variables_stands_in_for_the_environment_and_gives_way_to_it() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(check(folder.path(), &[]).status.code(), Some(78), "the secret is set nowhere");

    let text = format!("# as in the document\nexport JWT_SECRET_KEY=\"{SECRET}\"\nJWT_EXPIRATION=60\n");
    std::fs::write(folder.path().join(".env"), text).unwrap();
    assert_eq!(check(folder.path(), &[]).status.code(), Some(0));

    let told = check(folder.path(), &[("JWT_EXPIRATION", "soon")]);
    let told = (told.status.code(), String::from_utf8(told.stderr).unwrap());
    assert!(told.0 == Some(78) && told.1.contains("`soons` is not a duration"), "{told:?}");
}

#[test]
fn a_line_that_cannot_be_read_stops_the_start_and_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), format!("JWT_EXPIRATION=60\nJWT_SECRET_KEY={SECRET} {SECRET}\n"))
        .unwrap();
    let told = check(folder.path(), &[("JWT_SECRET_KEY", SECRET)]);
    let shown = String::from_utf8([told.stdout, told.stderr].concat()).unwrap();
    assert!(shown.starts_with(".env:2:1: this is not NAME=value\n    help: "), "{shown}");
    assert!(told.status.code() == Some(78) && !shown.contains(SECRET), "{shown}");
}
