//! Floods: a stranger who sends as much as they can. Each is bounded in time and ends with an honest client served; those
//! that could fill memory run against a process of its own, whose memory is measured.

use tollgate::credential::api_key;
use tollgate::model::entropy::SystemEntropy;

use super::harness::{Gate, Setup};

/// As many keys as asked for, all well formed, none of which was ever made.
fn forged(count: usize) -> Vec<String> {
    (0..count).map(|_| api_key::mint("vantage_", &SystemEntropy).expose().to_owned()).collect()
}

async fn looked_up(gate: &Gate) -> f64 {
    let line = "tollgate_store_operations_total{operation=\"key_by_hash\",outcome=\"ok\"}";
    gate.metric(line).await.unwrap_or(0.0)
}

#[tokio::test]
async fn forged_keys_from_an_address_over_its_bound_cost_no_look_up_and_leave_nothing_behind() {
    let gate = Setup::default().site("[site.limits]\nfailed_credentials = [\"5/1m\"]").start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (known, _) = gate.api_key(&token, &["read:posts"]).await;
    let (unseen, _) = gate.api_key(&token, &["read:posts"]).await;
    let ask = async |key: String| gate.client.get("/api/v1/posts").api_key(&key).send().await.status.as_u16();
    assert_eq!(ask(known.clone()).await, 200);
    let before = looked_up(&gate).await;
    let subjects = gate.metric("tollgate_limit_subjects").await.expect("a gauge");
    let mut told = Vec::new();
    for key in forged(60) {
        told.push(ask(key).await);
    }
    assert_eq!((&told[..5], told[5..].iter().all(|status| *status == 429)), (&[401; 5][..], true), "{told:?}");
    assert!((looked_up(&gate).await - before - 5.0).abs() < 0.5, "the store is not asked beyond the bound");
    // One address is one subject, however many keys it makes up; and no key of theirs is remembered.
    let grown = gate.metric("tollgate_limit_subjects").await.expect("a gauge") - subjects;
    assert!((grown - 1.0).abs() < 0.5, "{grown}");
    assert!(gate.metric("tollgate_cache_entries{cache=\"keys\"}").await.expect("a gauge") < 1.5);
    // Honest neighbours at the same address: whoever has been here before goes on, and a new one waits.
    assert_eq!(ask(known).await, 200);
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!(ask(unseen).await, 429);
}
