//! Signals that come when it does not suit: before it serves, and while a file that is read again does not answer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::Backend;
use super::harness::ADMIN_TOKEN;
use super::process::{Home, Plan, Process};
use super::reload::edit;
use super::wire::now;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway that reads the operator's token from a file of this name.
fn home(backend: &Backend) -> (Home, PathBuf) {
    let top = "[reload]\nwatch = false";
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top, site: "" });
    edit(&home, "gateway.toml", &format!("token = \"{ADMIN_TOKEN}\""), "token_file = \"operator\"");
    let file = home.folder.path().join("operator");
    (home, file)
}

fn is_there(file: &Path) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{ADMIN_TOKEN}\n")).expect("a file");
    std::fs::rename(draft, file).expect("in place");
}

/// In the place of the file something that does not answer whoever reads it: what a disk on the network is when its server
/// is gone.
async fn hangs(file: &Path) {
    let pipe = file.with_extension("pipe");
    let made = tokio::process::Command::new("mkfifo").arg(&pipe).status().await;
    assert!(made.expect("mkfifo").success());
    std::fs::rename(pipe, file).expect("in place");
}

/// The other end of the pipe, once somebody reads it.
async fn read_by_somebody(pipe: &Path) -> std::fs::File {
    let pipe = pipe.to_owned();
    let opening = tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(pipe));
    tokio::time::timeout(PATIENCE, opening).await.expect("it is read").expect("no panic").expect("a pipe")
}

#[tokio::test]
async fn what_is_asked_before_it_serves_is_done_once_it_does() {
    let backend = Backend::start().await;
    let (home, file) = home(&backend);
    hangs(&file).await;
    let mut process = Process::start(home.serve());
    let mut pipe = read_by_somebody(&file).await;
    // Whoever has just started it says: read your files again.
    process.signal("HUP").await;
    is_there(&file);
    pipe.write_all(ADMIN_TOKEN.as_bytes()).expect("it is read");
    drop(pipe);
    process.address("admin").await;
    process.until("another reading", |out| out.contains("the configuration was read again").then_some(())).await;
    process.stop().await.good();

    // One that does not serve yet has nothing to finish.
    hangs(&file).await;
    let process = Process::start(home.serve());
    let _pipe = read_by_somebody(&file).await;
    process.signal("TERM").await;
    let begun = now();
    assert_eq!(process.ended().await.code, None, "by the signal itself");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_that_does_not_answer_holds_up_neither_requests_nor_the_end() {
    let backend = Backend::start().await;
    let (home, file) = home(&backend);
    is_there(&file);
    let served = home.start().await;
    let good = "tollgate_config_last_reload_successful";
    hangs(&file).await;
    served.process.signal("HUP").await;
    let mut pipe = read_by_somebody(&file).await;
    let begun = now();
    while served.metric(good).await > 0.5 {
        assert!(begun.elapsed() < PATIENCE, "nobody is told");
        assert_eq!(served.http.get("/api/v1/posts").send().await.status, 401);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It answers in the end, and is taken.
    is_there(&file);
    pipe.write_all(ADMIN_TOKEN.as_bytes()).expect("it is read");
    drop(pipe);
    while served.metric(good).await < 0.5 {
        assert!(begun.elapsed() < PATIENCE, "what came in the end was not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Told to stop while it reads.
    hangs(&file).await;
    served.process.signal("HUP").await;
    let _pipe = read_by_somebody(&file).await;
    let out = served.process.stop().await.good();
    assert!(out.contains("a file or a disk does not answer"), "{out}");
}
