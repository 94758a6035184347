//! Passwords under races: changes, resets, and the sign-ins that prove the old one meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::super::{NewCode, Requested, Spared, Started, Terms};
use super::{Bench, REALM, T0, at_once, code, new_user_id, on_both, random, session};
use crate::model::change::Changed;
use crate::model::code::{CodeHash, CodeKind};
use crate::model::id::UserId;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

on_both!(
    a_hash_is_renewed_by_exactly_one_of_those_who_saw_the_old_one,
    a_change_ends_every_other_session_and_is_made_by_one_of_those_who_know_the_old_password,
    a_change_voids_the_reset_that_was_mailed_and_nothing_else,
    of_ten_resets_by_one_code_exactly_one_is_done,
    a_reset_ends_every_session_and_needs_a_reset_code_of_its_realm_that_still_counts,
    no_session_that_the_old_password_started_outlives_its_change,
    no_session_that_the_old_password_started_outlives_its_reset,
    a_renewed_hash_of_the_same_password_hinders_no_sign_in,
);

fn at(secs: u64) -> Timestamp {
    T0.plus(Duration::from_secs(secs))
}

fn hash(n: usize) -> Secret {
    Secret::new(format!("$argon2id$new{n}"))
}

async fn reset_code(bench: &Bench, user: UserId) -> NewCode {
    let new = code(CodeKind::Reset, T0);
    assert_eq!(bench.store.request_code(REALM, user, &new, 1000, T0).await.unwrap(), Requested::Done);
    new
}

async fn a_hash_is_renewed_by_exactly_one_of_those_who_saw_the_old_one(bench: Arc<Bench>) {
    let new = bench.registered("ann").await;
    let later = T0.plus(Duration::from_secs(5));
    let all: Vec<_> = (0..8)
        .map(|n| {
            let (store, id, old) = (bench.store.clone(), new.user.id, new.password_hash.clone());
            let next = Secret::new(format!("$argon2id$new{n}"));
            tokio::spawn(async move {
                store.set_password_hash(REALM, id, &old, &next, later).await.unwrap().then_some(next)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for one in all {
        winners.extend(one.await.unwrap());
    }
    let now = bench.store.credentials(REALM, &new.email_norm).await.unwrap().unwrap();
    assert_eq!(winners.iter().collect::<Vec<_>>(), [&now.password_hash]);
    assert_eq!(now.account.user.updated_at, later);

    let other = Secret::new("$argon2id$x".into());
    assert!(!bench.store.set_password_hash(REALM, new.user.id, &other, &other, later).await.unwrap());
    assert!(!bench.store.set_password_hash("other", new.user.id, &now.password_hash, &other, later).await.unwrap());
    assert!(!bench.store.set_password_hash(REALM, new_user_id(), &other, &other, later).await.unwrap());
    assert_eq!(bench.store.change_head().await.unwrap(), 1, "only the one that was made is announced");
}

async fn a_change_ends_every_other_session_and_is_made_by_one_of_those_who_know_the_old_password(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let (mine, others, theirs) = (session(&ann, T0), [session(&ann, at(1)), session(&ann, at(2))], session(&bob, T0));
    for one in [&mine, &others[0], &others[1], &theirs] {
        bench.store.start_session(REALM, one, &Terms::default()).await.unwrap();
    }
    let (user, keep, old) = (ann.user.id, mine.id, ann.password_hash.clone());
    let answers = at_once(&bench, 8, |store, n| {
        let old = old.clone();
        async move { store.change_password(REALM, user, &old, &hash(n), Spared::Session(keep), at(5)).await.unwrap() }
    })
    .await;
    let done: Vec<_> = answers.iter().flatten().collect();
    assert_eq!(done, [&vec![others[1].id, others[0].id]]);
    let winner = answers.iter().position(Option::is_some).unwrap();
    let now = bench.store.credentials(REALM, &ann.email_norm).await.unwrap().unwrap();
    assert_eq!((now.password_hash, now.account.user.updated_at), (hash(winner), at(5)));
    assert_eq!(bench.store.sessions(REALM, user, at(5)).await.unwrap(), [mine]);
    assert_eq!(bench.store.sessions(REALM, bob.user.id, at(5)).await.unwrap(), [theirs]);
    let told = bench.store.changes_since(0, 9).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|(_, change)| change.changed).collect();
    assert_eq!(told, [Changed::User(user), Changed::Session(others[1].id), Changed::Session(others[0].id)]);

    let right = hash(winner);
    for (realm, user, old) in [(REALM, user, &hash(99)), ("other", user, &right), (REALM, new_user_id(), &right)] {
        let refused = bench.store.change_password(realm, user, old, &hash(7), Spared::Nothing, at(6)).await.unwrap();
        assert_eq!(refused, None);
    }
    assert_eq!(bench.store.sessions(REALM, user, at(6)).await.unwrap().len(), 1, "what is refused ends nothing");
    let ended = bench.store.change_password(REALM, user, &right, &hash(7), Spared::Nothing, at(6)).await.unwrap();
    assert_eq!(ended, Some(vec![keep]));
}

async fn a_change_voids_the_reset_that_was_mailed_and_nothing_else(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let (mine, theirs) = (reset_code(&bench, ann.user.id).await, reset_code(&bench, bob.user.id).await);
    let verify = code(CodeKind::Verify, T0);
    bench.store.request_code(REALM, ann.user.id, &verify, 9, T0).await.unwrap();
    let (user, old) = (ann.user.id, &ann.password_hash);
    let changed = bench.store.change_password(REALM, user, old, &hash(1), Spared::Nothing, at(1)).await.unwrap();
    assert_eq!(changed, Some(vec![]));
    assert_eq!(bench.store.reset_password(REALM, &mine.hash, &hash(2), at(2)).await.unwrap(), None);
    assert_eq!(bench.store.verify_email(REALM, &verify.hash, at(2)).await.unwrap(), Some(ann.user.id));
    let theirs = bench.store.reset_password(REALM, &theirs.hash, &hash(2), at(2)).await.unwrap();
    assert_eq!(theirs, Some((bob.user.id, vec![])));
}

async fn of_ten_resets_by_one_code_exactly_one_is_done(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for round in 0..5 {
        let new = reset_code(&bench, ann.user.id).await;
        let one = session(&ann, T0);
        bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        let answers = at_once(&bench, 10, |store, n| async move {
            store.reset_password(REALM, &new.hash, &hash(10 * round + n), at(1)).await.unwrap()
        })
        .await;
        let done: Vec<_> = answers.iter().flatten().collect();
        assert_eq!(done, [&(ann.user.id, vec![one.id])]);
        let winner = answers.iter().position(Option::is_some).unwrap();
        let now = bench.store.credentials(REALM, &ann.email_norm).await.unwrap().unwrap();
        assert_eq!(now.password_hash, hash(10 * round + winner));
    }
}

async fn a_reset_ends_every_session_and_needs_a_reset_code_of_its_realm_that_still_counts(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let all = [session(&ann, T0), session(&ann, at(1))];
    for one in &all {
        bench.store.start_session(REALM, one, &Terms::default()).await.unwrap();
    }
    let new = reset_code(&bench, ann.user.id).await;
    let verify = code(CodeKind::Verify, T0);
    bench.store.request_code(REALM, ann.user.id, &verify, 9, T0).await.unwrap();
    for (realm, code, now) in [
        ("other", &new.hash, at(2)),
        (REALM, &verify.hash, at(2)),
        (REALM, &CodeHash(random()), at(2)),
        (REALM, &new.hash, new.ends_at),
    ] {
        assert_eq!(bench.store.reset_password(realm, code, &hash(1), now).await.unwrap(), None);
        assert_eq!(bench.store.code(realm, CodeKind::Reset, code, now).await.unwrap(), None);
    }
    assert_eq!(bench.store.sessions(REALM, ann.user.id, at(2)).await.unwrap().len(), 2);
    let last = new.ends_at.minus(Duration::from_millis(1));
    assert_eq!(bench.store.code(REALM, CodeKind::Reset, &new.hash, last).await.unwrap(), Some(ann.user.id));
    let done = bench.store.reset_password(REALM, &new.hash, &hash(1), at(2)).await.unwrap();
    assert_eq!(done, Some((ann.user.id, vec![all[1].id, all[0].id])));
    assert_eq!(bench.store.code(REALM, CodeKind::Reset, &new.hash, at(2)).await.unwrap(), None, "used up");
    let told = bench.store.changes_since(0, 9).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|(_, change)| change.changed).collect();
    let user = Changed::User(ann.user.id);
    assert_eq!(told, [user, Changed::Session(all[1].id), Changed::Session(all[0].id)]);
}

/// Signs in with what was proven before, in every way there is, while the password is changed, or reset by a code:
/// nothing may live afterwards.
async fn sign_ins_against_a_change(bench: &Bench, by_code: bool) {
    let ann = bench.registered("ann").await;
    let (user, mut started) = (ann.user.id, 0);
    for round in 0..40 {
        let proven = bench.store.credentials(REALM, &ann.email_norm).await.unwrap().unwrap();
        let reset = reset_code(bench, user).await;
        let signing_in: Vec<_> = (0..4)
            .map(|n| {
                let (store, one) = (bench.store.clone(), session(&ann, T0));
                let most = (n % 2 == 0).then_some(3);
                let terms = Terms { password: Some(proven.password_version), most, ..Terms::default() };
                tokio::spawn(async move { store.start_session(REALM, &one, &terms).await.unwrap() })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(100 * (round % 10))).await;
        let new = hash(usize::try_from(round).unwrap());
        let done = if by_code {
            bench.store.reset_password(REALM, &reset.hash, &new, at(1)).await.unwrap().is_some()
        } else {
            let old = &proven.password_hash;
            bench.store.change_password(REALM, user, old, &new, Spared::Nothing, at(1)).await.unwrap().is_some()
        };
        assert!(done);
        for one in signing_in {
            started += usize::from(one.await.unwrap() != Started::PasswordChanged);
        }
        assert_eq!(bench.store.sessions(REALM, user, at(2)).await.unwrap(), [], "round {round}");
    }
    println!("{started} of 160 sign-ins were quicker");
}

async fn no_session_that_the_old_password_started_outlives_its_change(bench: Arc<Bench>) {
    sign_ins_against_a_change(&bench, false).await;
}

async fn no_session_that_the_old_password_started_outlives_its_reset(bench: Arc<Bench>) {
    sign_ins_against_a_change(&bench, true).await;
}

async fn a_renewed_hash_of_the_same_password_hinders_no_sign_in(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let proven = bench.store.credentials(REALM, &ann.email_norm).await.unwrap().unwrap();
    assert!(bench.store.set_password_hash(REALM, ann.user.id, &proven.password_hash, &hash(1), T0).await.unwrap());
    for most in [None, Some(3)] {
        let terms = Terms { password: Some(proven.password_version), most, ..Terms::default() };
        let started = bench.store.start_session(REALM, &session(&ann, T0), &terms).await.unwrap();
        assert_eq!(started, Started::Done(vec![]));
    }
    // What was proven elsewhere is no proof here.
    let terms = Terms { password: Some(proven.password_version), ..Terms::default() };
    let started = bench.store.start_session("other", &session(&ann, T0), &terms).await.unwrap();
    assert_eq!(started, Started::PasswordChanged);
}
