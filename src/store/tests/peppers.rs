//! Peppers: the one that is remembered goes on, another does not while it would cost something.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Peppered, Requested, ShownPepper};
use super::{Bench, REALM, T0, code, on_both};
use crate::model::code::CodeKind;
use crate::model::time::Timestamp;

on_both!(
    a_pepper_is_remembered_and_another_is_none_while_something_is_under_the_first,
    a_store_from_before_takes_the_first_that_it_is_shown_unless_that_was_made_just_now,
    what_was_given_up_asks_for_no_pepper_and_for_each_realm_by_itself,
);

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

async fn show(bench: &Bench, realm: &str, fingerprint: &[u8; 32], is_new: bool, now: Timestamp) -> Peppered {
    bench.store.note_pepper(ShownPepper { realm, fingerprint, is_new }, now).await.unwrap()
}

fn lost(what: &str) -> Peppered {
    Peppered::Other { lost: what.to_owned() }
}

/// Something under the pepper, until `ends_at` and with a mail that waits.
async fn keep(bench: &Bench) -> Timestamp {
    let ann = bench.registered("ann").await;
    let new = code(CodeKind::Reset, T0);
    let kept = bench.store.request_code(REALM, ann.user.id, &new, 9, T0).await.unwrap();
    assert_eq!(kept, Requested::Done);
    new.ends_at
}

async fn a_pepper_is_remembered_and_another_is_none_while_something_is_under_the_first(bench: Arc<Bench>) {
    for (fingerprint, is_new) in [(OLD, true), (OLD, false), (NEW, true), (OLD, false)] {
        assert_eq!(show(&bench, REALM, &fingerprint, is_new, T0).await, Peppered::Noted, "nothing is under it yet");
    }
    let ends_at = keep(&bench).await;
    for is_new in [true, false] {
        assert_eq!(show(&bench, REALM, &NEW, is_new, T0).await, lost("tokens in mails"));
        assert_eq!(show(&bench, REALM, &OLD, is_new, T0).await, Peppered::Noted, "the right one is right");
    }
    let mail = bench.store.claim_mail(T0, Duration::from_mins(1)).await.unwrap().unwrap();
    assert_eq!(show(&bench, REALM, &NEW, false, ends_at).await, lost("mails that wait"));
    bench.store.mail_sent(&mail, T0).await.unwrap();
    assert_eq!(show(&bench, REALM, &NEW, false, T0).await, lost("tokens in mails"));
    assert_eq!(show(&bench, REALM, &NEW, false, ends_at).await, Peppered::Noted, "all of it is past");
    assert_eq!(show(&bench, REALM, &OLD, false, T0).await, lost("tokens in mails"));
}

async fn a_store_from_before_takes_the_first_that_it_is_shown_unless_that_was_made_just_now(bench: Arc<Bench>) {
    keep(&bench).await;
    assert_eq!(show(&bench, REALM, &NEW, true, T0).await, lost("tokens in mails"));
    assert_eq!(show(&bench, REALM, &OLD, false, T0).await, Peppered::Noted);
    assert_eq!(show(&bench, REALM, &NEW, false, T0).await, lost("tokens in mails"), "it was remembered");
}

async fn what_was_given_up_asks_for_no_pepper_and_for_each_realm_by_itself(bench: Arc<Bench>) {
    keep(&bench).await;
    assert_eq!(show(&bench, REALM, &OLD, false, T0).await, Peppered::Noted);
    bench.store.forget_pepper("other", T0).await.unwrap();
    assert_eq!(show(&bench, REALM, &NEW, true, T0).await, lost("tokens in mails"));
    assert_eq!(show(&bench, "other", &NEW, true, T0).await, Peppered::Noted, "nothing is there");
    bench.store.forget_pepper(REALM, T0).await.unwrap();
    assert_eq!(show(&bench, REALM, &NEW, true, T0).await, Peppered::Noted);
    assert_eq!(show(&bench, REALM, &OLD, false, T0).await, lost("tokens in mails"), "once");
}
