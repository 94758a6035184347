//! Codes: one of a kind, used once, so many mails an hour.

use std::sync::Arc;
use std::time::Duration;

use super::super::{NewCode, Purged, Registered, Requested};
use super::{Bench, REALM, T0, account, at_once, code, new_user_id, on_both};
use crate::model::change::Changed;
use crate::model::code::CodeKind;
use crate::model::id::UserId;
use crate::model::time::Timestamp;

on_both!(
    an_address_is_proven_once_by_the_code_that_was_mailed_with_the_registration,
    of_ten_that_show_one_code_exactly_one_proves_the_address,
    a_new_code_takes_the_place_of_the_old_one_of_its_kind,
    no_user_is_sent_more_mails_within_an_hour_than_may_be_however_many_are_asked_for_at_once,
    news_that_nobody_asked_for_use_up_no_place_of_the_hour,
    requesting_codes_and_using_them_at_once_do_not_wait_for_each_other,
    a_refused_registration_leaves_no_code_and_no_mail,
    a_purge_removes_codes_that_ended_and_mails_that_are_settled,
    a_profile_changes_what_is_given_and_tells_whom_it_concerns,
);

fn at(secs: u64) -> Timestamp {
    T0.plus(Duration::from_secs(secs))
}

async fn request(bench: &Bench, user: UserId, new: &NewCode, per_hour: u32, now: Timestamp) -> Requested {
    bench.store.request_code(REALM, user, new, per_hour, now).await.unwrap()
}

async fn an_address_is_proven_once_by_the_code_that_was_mailed_with_the_registration(bench: Arc<Bench>) {
    let (mut ann, new) = (account("ann"), code(CodeKind::Verify, T0));
    ann.verification = Some(new.clone());
    assert_eq!(bench.store.register(REALM, &ann).await.unwrap(), Registered::Done);
    let mail = bench.store.claim_mail(T0, Duration::from_mins(1)).await.unwrap().unwrap();
    assert_eq!((mail.realm.as_str(), mail.id, &mail.sealed), (REALM, new.mail.id, &new.mail.sealed));

    let verify = async |realm: &str, now| bench.store.verify_email(realm, &new.hash, now).await.unwrap();
    assert_eq!(verify("other", at(1)).await, None);
    assert_eq!(verify(REALM, new.ends_at).await, None);
    assert_eq!(bench.store.code(REALM, CodeKind::Reset, &new.hash, at(1)).await.unwrap(), None, "for nothing else");
    assert!(!bench.store.account(REALM, ann.user.id).await.unwrap().unwrap().user.email_verified);
    assert_eq!(verify(REALM, at(1)).await, Some(ann.user.id));
    let user = bench.store.account(REALM, ann.user.id).await.unwrap().unwrap().user;
    assert_eq!((user.email_verified, user.updated_at), (true, at(1)));
    assert_eq!(verify(REALM, at(2)).await, None, "used up");
    let told = bench.store.changes_since(0, 9).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.changed, Changed::User(ann.user.id));
}

async fn of_ten_that_show_one_code_exactly_one_proves_the_address(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for _ in 0..5 {
        let new = code(CodeKind::Verify, T0);
        assert_eq!(request(&bench, ann.user.id, &new, 9, T0).await, Requested::Done);
        let answers =
            at_once(&bench, 10, |store, _| async move { store.verify_email(REALM, &new.hash, at(1)).await.unwrap() })
                .await;
        assert_eq!(answers.into_iter().flatten().collect::<Vec<_>>(), [ann.user.id]);
    }
}

async fn a_new_code_takes_the_place_of_the_old_one_of_its_kind(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let all = [CodeKind::Verify, CodeKind::Reset, CodeKind::Verify].map(|kind| code(kind, T0));
    let theirs = code(CodeKind::Verify, T0);
    request(&bench, bob.user.id, &theirs, 9, T0).await;
    for new in &all {
        assert_eq!(request(&bench, ann.user.id, new, 9, T0).await, Requested::Done);
    }
    let whose = async |new: &NewCode| bench.store.code(REALM, new.kind, &new.hash, at(1)).await.unwrap();
    assert_eq!(whose(&all[0]).await, None);
    assert_eq!(whose(&all[1]).await, Some(ann.user.id));
    assert_eq!(whose(&all[2]).await, Some(ann.user.id));
    assert_eq!(whose(&theirs).await, Some(bob.user.id));
    assert_eq!(bench.store.verify_email(REALM, &all[0].hash, at(1)).await.unwrap(), None);
    assert_eq!(bench.store.change_head().await.unwrap(), 0, "nobody caches codes");
}

async fn no_user_is_sent_more_mails_within_an_hour_than_may_be_however_many_are_asked_for_at_once(bench: Arc<Bench>) {
    let (mut ann, bob) = (account("ann"), bench.registered("bob").await);
    ann.verification = Some(code(CodeKind::Verify, T0));
    bench.store.register(REALM, &ann).await.unwrap();
    let user = ann.user.id;
    let answers = at_once(&bench, 20, |store, n| async move {
        let kind = if n % 3 == 0 { CodeKind::Verify } else { CodeKind::Reset };
        store.request_code(REALM, user, &code(kind, at(60)), 5, at(60)).await.unwrap()
    })
    .await;
    let done = answers.iter().filter(|answer| **answer == Requested::Done).count();
    let refused = answers.iter().filter(|answer| **answer == Requested::TooMany).count();
    assert_eq!((done, refused), (4, 16), "the registration's mail counts");
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 5);
    assert_eq!(request(&bench, bob.user.id, &code(CodeKind::Reset, T0), 5, at(60)).await, Requested::Done);

    // What is refused replaces nothing.
    let (kept, refused) = (code(CodeKind::Reset, T0), code(CodeKind::Reset, T0));
    assert_eq!(request(&bench, user, &kept, 6, at(61)).await, Requested::Done);
    assert_eq!(request(&bench, user, &refused, 6, at(62)).await, Requested::TooMany);
    assert_eq!(bench.store.code(REALM, CodeKind::Reset, &kept.hash, at(62)).await.unwrap(), Some(user));
    assert_eq!(bench.store.code(REALM, CodeKind::Reset, &refused.hash, at(62)).await.unwrap(), None);
    // Sent or not, they count; an hour later they do not.
    while let Some(mail) = bench.store.claim_mail(at(62), Duration::from_secs(9)).await.unwrap() {
        bench.store.mail_sent(&mail, at(62)).await.unwrap();
    }
    let new = code(CodeKind::Reset, T0);
    assert_eq!(request(&bench, user, &new, 6, at(3599)).await, Requested::TooMany);
    assert_eq!(request(&bench, user, &new, 6, at(3600)).await, Requested::Done);
    let other = code(CodeKind::Reset, T0);
    assert_eq!(request(&bench, user, &other, 6, at(3600)).await, Requested::TooMany);
    assert_eq!(request(&bench, user, &other, 0, at(99_999)).await, Requested::TooMany);
    assert_eq!(request(&bench, new_user_id(), &other, 6, at(3600)).await, Requested::Unknown);
    let elsewhere = bench.store.request_code("other", user, &other, 6, at(3600)).await.unwrap();
    assert_eq!(elsewhere, Requested::Unknown);
}

async fn requesting_codes_and_using_them_at_once_do_not_wait_for_each_other(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let user = ann.user.id;
    for _ in 0..10 {
        let first = code(CodeKind::Verify, T0);
        assert_eq!(request(&bench, user, &first, 1000, T0).await, Requested::Done);
        at_once(&bench, 6, |store, n| async move {
            if n % 2 == 0 {
                store.verify_email(REALM, &first.hash, at(1)).await.map(drop).unwrap();
            } else {
                let requested = store.request_code(REALM, user, &code(CodeKind::Verify, T0), 1000, T0).await.unwrap();
                assert_eq!(requested, Requested::Done);
            }
        })
        .await;
    }
}

async fn a_refused_registration_leaves_no_code_and_no_mail(bench: Arc<Bench>) {
    let answers = at_once(&bench, 10, |store, _| async move {
        let (mut ann, new) = (account("ann"), code(CodeKind::Verify, T0));
        ann.verification = Some(new.clone());
        (store.register(REALM, &ann).await.unwrap(), ann.user.id, new)
    })
    .await;
    for (registered, user, new) in &answers {
        let whose = bench.store.code(REALM, CodeKind::Verify, &new.hash, at(1)).await.unwrap();
        assert_eq!(whose, (*registered == Registered::Done).then_some(*user));
    }
    assert_eq!(answers.iter().filter(|answer| answer.0 == Registered::Done).count(), 1);
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 1);
}

async fn a_purge_removes_codes_that_ended_and_mails_that_are_settled(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let (mut over, live) = (code(CodeKind::Verify, T0), code(CodeKind::Verify, T0));
    over.ends_at = at(5);
    request(&bench, ann.user.id, &over, 9, T0).await;
    request(&bench, bob.user.id, &live, 9, T0).await;
    request(&bench, bob.user.id, &code(CodeKind::Reset, T0), 9, at(1)).await;
    let lease = Duration::from_mins(10);
    let sent = bench.store.claim_mail(at(1), lease).await.unwrap().unwrap();
    let given_up = bench.store.claim_mail(at(1), lease).await.unwrap().unwrap();
    bench.store.mail_sent(&sent, at(6)).await.unwrap();
    bench.store.mail_failed(&given_up, None, "no such mailbox", at(7)).await.unwrap();

    assert_eq!(bench.store.purge(at(5)).await.unwrap(), Purged::default());
    assert_eq!(bench.store.purge(at(7)).await.unwrap(), Purged { codes: 1, mails: 1, ..Purged::default() });
    assert_eq!(bench.store.purge(at(8)).await.unwrap(), Purged { mails: 1, ..Purged::default() });
    assert_eq!(bench.store.code(REALM, CodeKind::Verify, &live.hash, at(8)).await.unwrap(), Some(bob.user.id));
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 1, "what waits is kept, however old");
}

async fn a_profile_changes_what_is_given_and_tells_whom_it_concerns(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (user, org) = (ann.user.id, ann.org.id);
    let update =
        async |name, org_name, now| bench.store.update_profile(REALM, user, name, org_name, now).await.unwrap();
    let names = async || {
        let now = bench.store.account(REALM, user).await.unwrap().unwrap();
        (now.user.name.unwrap(), now.org.name, now.user.updated_at, now.org.updated_at)
    };
    assert!(update(Some("Änne"), None, at(1)).await);
    assert_eq!(names().await, ("Änne".into(), "ann & Co".into(), at(1), T0));
    assert!(update(None, Some("Zoë"), at(2)).await);
    assert_eq!(names().await, ("Änne".into(), "Zoë".into(), at(2), at(2)));
    assert!(update(Some("a"), Some("b"), at(3)).await);
    assert_eq!(names().await, ("a".into(), "b".into(), at(3), at(3)));
    assert!(!bench.store.update_profile("other", user, Some("x"), Some("y"), at(4)).await.unwrap());
    assert!(!bench.store.update_profile(REALM, new_user_id(), Some("x"), Some("y"), at(4)).await.unwrap());
    assert!(bench.store.update_profile(REALM, user, Some("\0"), None, at(4)).await.is_err());
    assert!(bench.store.update_profile(REALM, user, None, Some("\0"), at(4)).await.is_err());
    assert_eq!(names().await, ("a".into(), "b".into(), at(3), at(3)));
    let told = bench.store.changes_since(0, 9).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|(_, change)| change.changed).collect();
    let (user, org) = (Changed::User(user), Changed::Org(org));
    assert_eq!(told, [user, user, org, user, org]);
}

async fn news_that_nobody_asked_for_use_up_no_place_of_the_hour(bench: Arc<Bench>) {
    let user = bench.registered("ann").await.user.id;
    for n in 0..3 {
        bench.store.queue_mail(REALM, user, &code(CodeKind::Reset, at(n)).mail, at(n)).await.unwrap();
    }
    assert_eq!(request(&bench, user, &code(CodeKind::Reset, at(5)), 1, at(5)).await, Requested::Done);
    assert_eq!(request(&bench, user, &code(CodeKind::Reset, at(6)), 1, at(6)).await, Requested::TooMany);
    assert_eq!(bench.store.mail_waiting().await.unwrap(), 4, "all of them wait to be sent");
}
