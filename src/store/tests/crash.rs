//! A process that is killed keeps its word: whatever it acknowledged is there afterwards, whole.

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::super::{Created, Page, Registered, Settings, Store, UserFilter};
use super::{Bench, REALM, T0, account, key, on_both, session};
use crate::model::api_key::KeyHash;
use crate::model::id::SessionId;

on_both!(what_was_acknowledged_before_a_kill_is_there_after_it);

const URL: &str = "TOLLGATE_TEST_CRASH_URL";

async fn what_was_acknowledged_before_a_kill_is_there_after_it(bench: Arc<Bench>) {
    // Several rounds: each kill falls somewhere else, into a commit, a write of the log, a checkpoint.
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash::a_process_to_be_killed", "--ignored", "--nocapture"])
            .env(URL, bench.settings.url.expose())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = acknowledged(&mut lines, 400).await;
        child.start_kill().unwrap();
        assert!(!child.wait().await.unwrap().success());
        // What was still in the pipe had been acknowledged too.
        told.extend(acknowledged(&mut lines, usize::MAX).await);
        assert!(told.len() >= 400, "round {round}: {}", told.len());

        let store = bench.elsewhere().await;
        for line in &told {
            assert!(is_there(&store, line).await, "round {round}: {line}");
        }
        // What was not acknowledged is whole or absent: no organization without its user.
        let mut orgs = 0;
        let mut page = Page::first(Page::<crate::model::id::OrgId>::MOST);
        while let Some(last) = {
            let some = store.orgs(REALM, page).await.unwrap();
            for org in &some {
                let users = store.users(REALM, &UserFilter::Org(org.id), Page::first(2)).await.unwrap();
                assert_eq!(users.len(), 1, "{org:?}");
            }
            orgs += some.len();
            some.last().map(|org| org.id)
        } {
            page.after = Some(last);
        }
        assert!(orgs > 0);
        store.close().await;
    }
}

async fn acknowledged(lines: &mut Lines<BufReader<ChildStdout>>, at_least: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < at_least {
        match lines.next_line().await.unwrap() {
            Some(line) => told.extend(line.strip_prefix("ack ").map(str::to_owned)),
            None => break,
        }
    }
    told
}

async fn is_there(store: &Store, told: &str) -> bool {
    match told.split_once(' ').unwrap() {
        ("account", email) => store.credentials(REALM, email).await.unwrap().is_some(),
        ("key", hash) => {
            let mut bytes = [0; 32];
            for (byte, digits) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            }
            store.key_by_hash(REALM, &KeyHash(bytes)).await.unwrap().is_some()
        }
        ("ended", id) => {
            let session = store.session(REALM, SessionId::from_text(id).unwrap()).await.unwrap();
            session.is_some_and(|session| !session.is_live(T0))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "the process that the claim above kills"]
async fn a_process_to_be_killed() {
    #[expect(clippy::disallowed_methods, reason = "how the parent says where")]
    let url = std::env::var(URL).expect("run by the claim above");
    let settings =
        Settings { url: url.into(), max_connections: 8, acquire_timeout: std::time::Duration::from_secs(10) };
    let store = super::open(&settings).await.unwrap();
    let writers: Vec<_> = (0..4).map(|_| tokio::spawn(write_without_end(store.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write_without_end(store: Store) {
    loop {
        let mut new = account(&super::new_user_id().to_text());
        let first = session(&new, T0);
        new.session = Some(first.clone());
        assert_eq!(store.register(REALM, &new).await.unwrap(), Registered::Done);
        println!("ack account {}", new.email_norm);
        let (key, hash) = key(&new, T0);
        assert_eq!(store.create_key(REALM, &key, &hash, 9).await.unwrap(), Created::Done);
        println!("ack key {}", super::super::rows::hash_to_text(&hash.0));
        assert!(store.end_session(REALM, first.id, T0).await.unwrap());
        println!("ack ended {}", first.id.to_text());
    }
}
