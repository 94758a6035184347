//! The queue under races: no mail is with two workers at once, none is lost with one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::{QueuedMail, Requested, Store};
use super::{Bench, REALM, T0, at_once, code, on_both};
use crate::model::code::CodeKind;
use crate::model::id::MailId;
use crate::model::time::Timestamp;

on_both!(
    eight_workers_on_two_nodes_take_every_mail_once,
    a_mail_whose_worker_died_is_taken_again_when_its_lease_is_over,
    a_worker_that_was_too_slow_cannot_put_off_what_another_has_taken,
    what_failed_is_due_again_when_it_was_put_off_to_and_what_is_settled_never,
    mails_are_taken_in_the_order_in_which_they_fall_due,
);

const LEASE: Duration = Duration::from_mins(1);

fn at(secs: u64) -> Timestamp {
    T0.plus(Duration::from_secs(secs))
}

async fn queued(bench: &Bench, name: &str, now: Timestamp) -> MailId {
    let user = match bench.store.credentials(REALM, &format!("{name}@example.com")).await.unwrap() {
        Some(known) => known.account.user.id,
        None => bench.registered(name).await.user.id,
    };
    let new = code(CodeKind::Reset, now);
    assert_eq!(bench.store.request_code(REALM, user, &new, 1000, now).await.unwrap(), Requested::Done);
    new.mail.id
}

async fn claim(store: &Store, now: Timestamp) -> Option<QueuedMail> {
    store.claim_mail(now, LEASE).await.unwrap()
}

async fn eight_workers_on_two_nodes_take_every_mail_once(bench: Arc<Bench>) {
    let mut all = Vec::new();
    for n in 0..60 {
        all.push(queued(&bench, &format!("u{}", n % 7), T0).await);
    }
    let taken = at_once(&bench, 8, |store, _| async move {
        let mut mine = Vec::new();
        while let Some(mail) = claim(&store, at(1)).await {
            assert_eq!(mail.attempts, 1);
            // Some are done with at once, some stay under way.
            if mine.len() % 2 == 0 {
                store.mail_sent(&mail, at(1)).await.unwrap();
            }
            mine.push(mail.id);
        }
        mine
    })
    .await;
    let mut times: HashMap<MailId, u32> = HashMap::new();
    for id in taken.into_iter().flatten() {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times, all.into_iter().map(|id| (id, 1)).collect());
}

async fn a_mail_whose_worker_died_is_taken_again_when_its_lease_is_over(bench: Arc<Bench>) {
    let id = queued(&bench, "ann", T0).await;
    assert!(claim(&bench.store, T0.minus(Duration::from_millis(1))).await.is_none(), "not due yet");
    let first = claim(&bench.store, at(5)).await.unwrap();
    assert_eq!((first.id, first.attempts), (id, 1));
    let end = at(65);
    assert!(claim(&bench.store, end.minus(Duration::from_millis(1))).await.is_none());
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 1, "it is under way");
    // By another process, after the first was killed.
    let elsewhere = bench.elsewhere().await;
    let again = claim(&elsewhere, end).await.unwrap();
    assert_eq!((again.id, again.attempts, &again.sealed), (id, 2, &first.sealed));
    elsewhere.close().await;
}

async fn a_worker_that_was_too_slow_cannot_put_off_what_another_has_taken(bench: Arc<Bench>) {
    queued(&bench, "ann", T0).await;
    let slow = claim(&bench.store, T0).await.unwrap();
    let quick = claim(&bench.store, at(60)).await.unwrap();
    for next_at in [Some(at(61)), None] {
        assert!(!bench.store.mail_failed(&slow, next_at, "too late", at(61)).await.unwrap());
    }
    assert!(claim(&bench.store, at(119)).await.is_none(), "the quick one's lease holds");
    // But if the slow one has sent it after all, that is so: nobody sends it again.
    bench.store.mail_sent(&slow, at(62)).await.unwrap();
    assert!(!bench.store.mail_failed(&quick, Some(at(63)), "what?", at(62)).await.unwrap());
    bench.store.mail_sent(&quick, at(63)).await.unwrap();
    assert!(claim(&bench.store, at(9999)).await.is_none());
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 0);
}

async fn what_failed_is_due_again_when_it_was_put_off_to_and_what_is_settled_never(bench: Arc<Bench>) {
    queued(&bench, "ann", T0).await;
    let long = "é\0".repeat(2000);
    let mut now = T0;
    for attempt in 1..=3 {
        let mail = claim(&bench.store, now).await.unwrap();
        assert_eq!(mail.attempts, attempt);
        now = now.plus(Duration::from_secs(100));
        assert!(bench.store.mail_failed(&mail, Some(now), &long, T0).await.unwrap());
        assert!(claim(&bench.store, now.minus(Duration::from_millis(1))).await.is_none());
    }
    let mail = claim(&bench.store, now).await.unwrap();
    assert!(bench.store.mail_failed(&mail, None, "550 no such mailbox", now).await.unwrap());
    assert!(!bench.store.mail_failed(&mail, Some(now), "again?", now).await.unwrap());
    assert!(claim(&bench.store, at(99_999)).await.is_none());
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 0);
}

async fn mails_are_taken_in_the_order_in_which_they_fall_due(bench: Arc<Bench>) {
    let late = queued(&bench, "ann", at(3)).await;
    let early = queued(&bench, "bob", at(1)).await;
    let middle = queued(&bench, "carl", at(2)).await;
    for id in [early, middle, late] {
        assert_eq!(claim(&bench.store, at(9)).await.unwrap().id, id);
    }
    assert!(claim(&bench.store, at(9)).await.is_none());
}
