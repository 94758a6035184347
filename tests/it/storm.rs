//! Five hundred sign-ins at once: hashing is bounded, the rest is turned away politely, and proxied traffic goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::process::{Home, Plan};

const SIGN_INS: usize = 500;
const WORKERS: u32 = 1;
const QUEUE: usize = 16;
/// What a hash takes (19 MiB), for each worker, and what 500 connections with TLS take in a debug build, in KiB.
const ROOM: u64 = (WORKERS as u64 * 19 + 96) * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sign_ins_is_bounded_and_proxied_traffic_goes_on() {
    let backend = Backend::start().await;
    let top = format!("[passwords]\nworkers = {WORKERS}\nqueue = {QUEUE}\n");
    let site = "[site.plan.free]\nlimits = []\n[site.limits]\nnative_per_address = []\nfailed_sign_ins = []\n";
    let url = backend.url();
    let home = Home::new(&Plan { postgres: None, backend: &url, store: "", top: &top, site });
    let served = Arc::new(home.start().await);
    let account = json!({ "email": "ann@example.com", "password": "correct horse battery", "name": "Ann" });
    assert_eq!(served.https.post("/api/v1/auth/register", &account).send().await.status, 201);
    let token = served.https.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let before = served.resident();

    let over = Arc::new(AtomicBool::new(false));
    let (proxied, too_many) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let traffic = tokio::spawn({
        let (served, over, proxied) = (Arc::clone(&served), Arc::clone(&over), Arc::clone(&proxied));
        async move {
            while !over.load(Ordering::SeqCst) {
                let answer = served.https.get("/api/v1/posts").bearer(&token).send().await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                proxied.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let watch = tokio::spawn({
        let (served, over, too_many) = (Arc::clone(&served), Arc::clone(&over), Arc::clone(&too_many));
        async move {
            while !over.load(Ordering::SeqCst) {
                let now = served.metric("tollgate_password_hashes_running").await;
                too_many.fetch_or(now > f64::from(WORKERS) + 0.5, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });

    let mut storm = JoinSet::new();
    for at in 0..SIGN_INS {
        let client = served.https.clone();
        // Half of them are people who wait, half give up at once: whoever leaves frees no worker early.
        storm.spawn(async move {
            let body = json!({ "email": format!("u{at}@example.com"), "password": "wrong-passw0rd" });
            let asked = client.post("/api/v1/auth/login", &body).send();
            if at % 2 == 0 {
                Some(asked.await)
            } else {
                tokio::time::timeout(Duration::from_millis(30), asked).await.ok()
            }
        });
    }
    let answers: Vec<_> = storm.join_all().await.into_iter().flatten().collect();
    let after = served.resident();
    let during = proxied.load(Ordering::SeqCst);
    over.store(true, Ordering::SeqCst);
    traffic.await.expect("every proxied request was answered");
    watch.await.expect("the metrics were answered");

    assert!(answers.len() >= SIGN_INS / 2);
    for answer in &answers {
        match answer.status.as_u16() {
            401 => {}
            503 => {
                assert!(answer.header("retry-after").is_some(), "{}", answer.text());
                assert!(answer.text().starts_with(r#"{"detail":"#), "the product's body: {}", answer.text());
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let shed = answers.iter().filter(|answer| answer.status == 503).count();
    assert!(shed > 0 && served.metric("tollgate_password_hashes_shed_total").await >= 1.0, "more came than may wait");
    assert!(!too_many.load(Ordering::SeqCst), "more hashes at once than there are workers");
    assert!(during > 5, "proxied traffic went on: {during}");
    assert!(after < before + ROOM, "memory grew from {before} to {after} KiB");
}
