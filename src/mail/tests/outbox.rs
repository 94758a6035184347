//! Mails as files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::mail::Stage;

fn into(folder: &Path) -> Mailer {
    let transport = Transport::Outbox(folder.to_owned());
    Mailer::new(&Settings { transport, templates: None, at_once: 4 }).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_mail_is_one_whole_file_that_only_its_owner_reads() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("deep/outbox");
    let mailer = into(&folder);
    let message = reset(&mailer, "a@example.com");
    mailer.deliver(&message).await.unwrap();
    assert_eq!(names(&folder), [format!("2026-11-20T094000.000Z-{}.eml", message.id())]);
    let file = folder.join(&names(&folder)[0]);
    assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("\r\nhttps://app.vantage.example/reset?token={TOKEN}\r\n")), "{text}");
    assert!(text.starts_with("From: Vantage <no-reply@vantage.example>\r\n") && text.ends_with("--\r\n"), "{text}");
}

#[tokio::test]
async fn the_same_mail_again_is_the_same_file_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = into(folder.path());
    let message = reset(&mailer, "a@example.com");
    mailer.deliver(&message).await.unwrap();
    mailer.deliver(&message).await.unwrap();
    let before = fs::read(folder.path().join(&names(folder.path())[0])).unwrap();
    into(folder.path()).deliver(&message).await.unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    assert_eq!(fs::read(folder.path().join(&names(folder.path())[0])).unwrap(), before);
}

#[tokio::test]
async fn whoever_reads_while_it_is_written_sees_whole_mails_only() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = into(folder.path());
    let path = folder.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let mut seen = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            for name in names(&path).iter().filter(|name| !name.starts_with('.')) {
                let text = fs::read_to_string(path.join(name)).unwrap();
                assert!(text.ends_with("--\r\n") && text.contains(TOKEN), "{name} is cut off");
                seen += 1;
            }
        }
        seen
    });
    let to: Vec<String> = (0..40).map(|n| format!("user{n}@example.com")).collect();
    let sent = futures_util::future::join_all(to.iter().map(|to| send(&mailer, to))).await;
    assert!(sent.iter().all(Result::is_ok));
    drop(stop);
    assert!(reader.join().unwrap() > 0);
    assert_eq!(names(folder.path()).len(), 40, "and nothing half-written stays behind");
}

#[tokio::test]
async fn what_an_interrupted_write_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = into(folder.path());
    let message = reset(&mailer, "a@example.com");
    let left = folder.path().join(format!(".2026-11-20T094000.000Z-{}.new", message.id()));
    fs::write(&left, "From: half a").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
    mailer.deliver(&message).await.unwrap();
    let names = names(folder.path());
    assert_eq!((names.len(), mode(&folder.path().join(&names[0]))), (1, 0o600));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_an_attempt_and_no_mail() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("outbox");
    fs::write(&folder, "a file is in the way").unwrap();
    let mailer = into(&folder);
    let message = reset(&mailer, "a@example.com");
    let error = mailer.deliver(&message).await.unwrap_err();
    assert!(!error.is_permanent() && error.stage() == Stage::Outbox, "{error}");
    fs::remove_file(&folder).unwrap();
    mailer.deliver(&message).await.unwrap();
    assert_eq!(names(&folder).len(), 1);
}

#[tokio::test]
async fn where_mail_is_off_nothing_is_sent_and_nothing_is_lost() {
    let off = Mailer::new(&Settings { transport: Transport::Off, templates: None, at_once: 1 }).unwrap();
    let error = send(&off, "a@example.com").await.unwrap_err();
    assert!(!off.is_on() && !error.is_permanent(), "{error}");
    let folder = tempfile::tempdir().unwrap();
    assert!(into(folder.path()).is_on());
}
