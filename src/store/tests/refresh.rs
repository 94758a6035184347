//! Refresh tokens under races: parallel tabs, replays, stolen copies, logouts.

use std::sync::Arc;
use std::time::Duration;

use super::super::{NewAccount, NewRefresh, RefreshExchange, Refreshed, Registered, Started, Store, Terms};
use super::{Bench, REALM, T0, account, at_once, on_both, random, session};
use crate::model::change::Changed;
use crate::model::refresh::RefreshHash;
use crate::model::session::Session;
use crate::model::time::Timestamp;

on_both!(
    twenty_refreshes_of_one_token_at_once_get_the_same_successor,
    a_parent_is_replayed_within_the_grace_and_ends_the_family_at_its_end,
    a_grandparent_ends_the_family_even_within_the_grace,
    of_ten_that_use_an_old_token_at_once_one_ends_the_family_and_the_others_find_it_ended,
    a_refresh_and_a_logout_leave_no_token_that_counts,
    a_refresh_that_a_note_of_use_overtakes_ends_nothing,
    a_refresh_token_counts_until_it_or_its_session_ends,
    a_session_that_goes_unused_is_not_refreshed,
    a_token_that_stays_counts_for_its_own_session_in_its_own_realm_until_it_ends,
    a_registration_keeps_its_sessions_refresh_token,
    families_of_one_user_do_not_touch_each_other,
);

const GRACE: Duration = Duration::from_secs(10);
const WEEK: Duration = Duration::from_hours(7 * 24);

fn at(millis: u64) -> Timestamp {
    T0.plus(Duration::from_millis(millis))
}

fn new_token(at: Timestamp) -> NewRefresh {
    NewRefresh { hash: RefreshHash(random()), ends_at: at.plus(WEEK) }
}

/// What every holder of a token derives from it: the same successor.
fn successor(of: NewRefresh) -> NewRefresh {
    let mut hash = of.hash.0;
    hash.rotate_left(1);
    NewRefresh { hash: RefreshHash(hash), ends_at: of.ends_at.plus(Duration::from_secs(1)) }
}

async fn signed_in(store: &Store, who: &NewAccount) -> (Session, NewRefresh) {
    let (mut one, token) = (session(who, T0), new_token(T0));
    one.ends_at = T0.plus(4 * WEEK);
    let terms = Terms { refresh: Some(token), ..Terms::default() };
    assert_eq!(store.start_session(REALM, &one, &terms).await.unwrap(), Started::Done(vec![]));
    (one, token)
}

async fn refresh(store: &Store, session: &Session, token: NewRefresh, now: Timestamp) -> Refreshed {
    let exchange = RefreshExchange { presented: token.hash, successor: successor(token), grace: GRACE, idle: None };
    store.rotate_refresh(REALM, session.id, &exchange, now).await.unwrap()
}

async fn is_over(store: &Store, session: &Session) -> bool {
    store.session(REALM, session.id).await.unwrap().unwrap().revoked_at.is_some()
}

async fn twenty_refreshes_of_one_token_at_once_get_the_same_successor(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for _ in 0..5 {
        let (one, token) = signed_in(&bench.store, &ann).await;
        let answers = at_once(&bench, 20, |store, _| {
            let one = one.clone();
            async move { refresh(&store, &one, token, at(1)).await }
        })
        .await;
        let touched = Session { last_active_at: at(1), ..one.clone() };
        let count = |wanted: Refreshed| answers.iter().filter(|answer| **answer == wanted).count();
        assert_eq!((count(Refreshed::Rotated(touched.clone())), count(Refreshed::Replayed(touched))), (1, 19));
        // One family: its one successor goes on.
        assert!(matches!(refresh(&bench.store, &one, successor(token), at(2)).await, Refreshed::Rotated(_)));
        assert!(!is_over(&bench.store, &one).await);
    }
    assert_eq!(bench.store.change_head().await.unwrap(), 0, "nothing that is cached has changed");
}

async fn a_parent_is_replayed_within_the_grace_and_ends_the_family_at_its_end(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (one, token) = signed_in(&bench.store, &ann).await;
    assert!(matches!(refresh(&bench.store, &one, token, at(1000)).await, Refreshed::Rotated(_)));
    // A clock that stepped back makes no time pass.
    for within in [1000, 10_999, 500, 0] {
        assert!(matches!(refresh(&bench.store, &one, token, at(within)).await, Refreshed::Replayed(_)), "{within}");
    }
    let Refreshed::Reused { session: ended } = refresh(&bench.store, &one, token, at(11_000)).await else {
        panic!("the grace is over")
    };
    assert_eq!((ended.id, ended.revoked_at), (one.id, Some(at(11_000))));
    assert_eq!(bench.store.session(REALM, one.id).await.unwrap(), Some(ended));
    let all = bench.store.changes_since(0, 9).await.unwrap();
    assert_eq!(all.iter().map(|(_, change)| change.changed).collect::<Vec<_>>(), [Changed::Session(one.id)]);
    // It took the successor with it.
    assert_eq!(refresh(&bench.store, &one, successor(token), at(11_001)).await, Refreshed::Unknown);

    let (one, token) = signed_in(&bench.store, &ann).await;
    let none =
        RefreshExchange { presented: token.hash, successor: successor(token), grace: Duration::ZERO, idle: None };
    let rotate = || bench.store.rotate_refresh(REALM, one.id, &none, at(1));
    assert!(matches!(rotate().await.unwrap(), Refreshed::Rotated(_)));
    assert!(matches!(rotate().await.unwrap(), Refreshed::Reused { .. }), "no grace is no replay");
}

async fn a_grandparent_ends_the_family_even_within_the_grace(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (one, first) = signed_in(&bench.store, &ann).await;
    let (second, third) = (successor(first), successor(successor(first)));
    assert!(matches!(refresh(&bench.store, &one, first, at(1)).await, Refreshed::Rotated(_)));
    assert!(matches!(refresh(&bench.store, &one, second, at(2)).await, Refreshed::Rotated(_)));
    assert!(matches!(refresh(&bench.store, &one, second, at(3)).await, Refreshed::Replayed(_)), "the parent");
    assert!(matches!(refresh(&bench.store, &one, first, at(3)).await, Refreshed::Reused { .. }), "the one before it");
    assert_eq!(refresh(&bench.store, &one, third, at(4)).await, Refreshed::Unknown);

    // A parent whose successor would be another than the one that counts is not answered with it.
    let (one, token) = signed_in(&bench.store, &ann).await;
    assert!(matches!(refresh(&bench.store, &one, token, at(1)).await, Refreshed::Rotated(_)));
    let other = RefreshExchange { presented: token.hash, successor: new_token(T0), grace: GRACE, idle: None };
    let replay = bench.store.rotate_refresh(REALM, one.id, &other, at(2)).await.unwrap();
    assert!(matches!(replay, Refreshed::Reused { .. }));
}

async fn of_ten_that_use_an_old_token_at_once_one_ends_the_family_and_the_others_find_it_ended(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (one, token) = signed_in(&bench.store, &ann).await;
    assert!(matches!(refresh(&bench.store, &one, token, at(0)).await, Refreshed::Rotated(_)));
    let answers = at_once(&bench, 10, |store, n| {
        let one = one.clone();
        // Whoever holds the current token tries as well, and gets it or finds the family ended.
        let token = if n == 5 { successor(token) } else { token };
        async move { refresh(&store, &one, token, at(20_000)).await }
    })
    .await;
    let reused = answers.iter().filter(|answer| matches!(answer, Refreshed::Reused { .. })).count();
    let unknown = answers.iter().filter(|answer| **answer == Refreshed::Unknown).count();
    let rotated = usize::from(matches!(answers[5], Refreshed::Rotated(_)));
    assert_eq!((reused, unknown), (1, 9 - rotated), "{answers:?}");
    assert!(is_over(&bench.store, &one).await);
    assert_eq!(bench.store.change_head().await.unwrap(), 1, "announced once");
}

async fn a_refresh_and_a_logout_leave_no_token_that_counts(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let mut rotated = 0;
    for round in 0..30 {
        let (one, token) = signed_in(&bench.store, &ann).await;
        let answers = at_once(&bench, 2, |store, n| {
            let one = one.clone();
            async move {
                if n == round % 2 {
                    assert!(store.end_session(REALM, one.id, at(1)).await.unwrap(), "a logout is never refused");
                    None
                } else {
                    Some(refresh(&store, &one, token, at(1)).await)
                }
            }
        })
        .await;
        match answers.into_iter().flatten().next().unwrap() {
            Refreshed::Rotated(_) => rotated += 1,
            other => assert_eq!(other, Refreshed::Unknown),
        }
        for token in [token, successor(token)] {
            assert_eq!(refresh(&bench.store, &one, token, at(2)).await, Refreshed::Unknown, "{rotated}");
        }
    }
    assert_eq!(bench.store.change_head().await.unwrap(), 30, "each logout, and nothing else");
}

async fn a_refresh_that_a_note_of_use_overtakes_ends_nothing(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for _ in 0..40 {
        let (one, token) = signed_in(&bench.store, &ann).await;
        let exchange = RefreshExchange {
            presented: token.hash,
            successor: successor(token),
            grace: GRACE,
            idle: Some(Duration::from_secs(10)),
        };
        let answers = at_once(&bench, 2, |store, n| async move {
            if n == 0 {
                return Some(store.rotate_refresh(REALM, one.id, &exchange, at(20_000)).await.unwrap());
            }
            store.touch_sessions(&[(REALM.into(), one.id, at(19_000))]).await.unwrap();
            None
        })
        .await;
        let answer = answers.into_iter().flatten().next().unwrap();
        assert!(matches!(answer, Refreshed::Rotated(_) | Refreshed::Unknown), "{answer:?}");
        assert!(!is_over(&bench.store, &one).await);
    }
}

async fn a_refresh_token_counts_until_it_or_its_session_ends(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let before = |end: Timestamp| end.minus(Duration::from_millis(1));
    let (one, token) = signed_in(&bench.store, &ann).await;
    assert_eq!(refresh(&bench.store, &one, token, token.ends_at).await, Refreshed::Unknown);
    assert!(matches!(refresh(&bench.store, &one, token, before(token.ends_at)).await, Refreshed::Rotated(_)));
    // The successor has an end of its own. What is over is not reused, it is over.
    let next = successor(token);
    assert_eq!(refresh(&bench.store, &one, token, next.ends_at).await, Refreshed::Unknown);
    assert!(matches!(refresh(&bench.store, &one, next, token.ends_at).await, Refreshed::Rotated(_)));

    let (mut short, token) = (session(&ann, T0), new_token(T0));
    short.ends_at = at(500);
    let terms = Terms { refresh: Some(token), ..Terms::default() };
    bench.store.start_session(REALM, &short, &terms).await.unwrap();
    assert_eq!(refresh(&bench.store, &short, token, short.ends_at).await, Refreshed::Unknown);
    assert!(matches!(refresh(&bench.store, &short, token, before(short.ends_at)).await, Refreshed::Rotated(_)));

    // One that never had any, and one that never was.
    let bare = session(&ann, T0);
    bench.store.start_session(REALM, &bare, &Terms::default()).await.unwrap();
    assert_eq!(refresh(&bench.store, &bare, new_token(T0), at(1)).await, Refreshed::Unknown);
    assert_eq!(refresh(&bench.store, &session(&ann, T0), new_token(T0), at(1)).await, Refreshed::Unknown);
    assert_eq!(bench.store.change_head().await.unwrap(), 0);
}

async fn a_session_that_goes_unused_is_not_refreshed(bench: Arc<Bench>) {
    let idle = Duration::from_mins(1);
    let ann = bench.registered("ann").await;
    let (one, token) = signed_in(&bench.store, &ann).await;
    let rotate = async |token: NewRefresh, now| {
        let exchange =
            RefreshExchange { presented: token.hash, successor: successor(token), grace: GRACE, idle: Some(idle) };
        bench.store.rotate_refresh(REALM, one.id, &exchange, now).await.unwrap()
    };
    assert_eq!(rotate(token, at(60_000)).await, Refreshed::Unknown);
    let Refreshed::Rotated(now) = rotate(token, at(59_999)).await else { panic!("it was used in time") };
    assert!(!now.is_idle(idle, at(119_998)) && now.is_idle(idle, at(119_999)));
    // Use between two refreshes counts as well.
    bench.store.touch_sessions(&[(REALM.into(), one.id, at(100_000))]).await.unwrap();
    assert_eq!(rotate(successor(token), at(160_000)).await, Refreshed::Unknown);
    assert!(matches!(rotate(successor(token), at(159_999)).await, Refreshed::Rotated(_)));
    assert!(!is_over(&bench.store, &one).await, "nobody ended it");

    let (one, token) = signed_in(&bench.store, &ann).await;
    let check = |now| bench.store.check_refresh(REALM, one.id, &token.hash, Some(idle), now);
    assert_eq!(check(at(60_000)).await.unwrap(), None);
    assert_eq!(check(at(59_999)).await.unwrap().unwrap().last_active_at, at(59_999));
    assert!(check(at(119_998)).await.unwrap().is_some());
}

async fn a_token_that_stays_counts_for_its_own_session_in_its_own_realm_until_it_ends(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (one, token) = signed_in(&bench.store, &ann).await;
    let (two, other) = signed_in(&bench.store, &ann).await;
    let check = async |realm: &str, session: &Session, token: NewRefresh, now| {
        bench.store.check_refresh(realm, session.id, &token.hash, None, now).await.unwrap()
    };
    let touched = |at| Some(Session { last_active_at: at, ..one.clone() });
    assert_eq!(check(REALM, &one, token, at(5)).await, touched(at(5)));
    assert_eq!(check(REALM, &one, token, at(4)).await, touched(at(5)), "a clock that stepped back");
    assert_eq!(check(REALM, &one, other, at(6)).await, None);
    assert_eq!(check(REALM, &two, token, at(6)).await, None);
    assert_eq!(check("other", &one, token, at(6)).await, None);
    assert_eq!(check(REALM, &one, token, token.ends_at).await, None);
    assert!(!is_over(&bench.store, &one).await && !is_over(&bench.store, &two).await, "a mistake ends nothing");
    assert!(bench.store.end_session(REALM, one.id, at(7)).await.unwrap());
    assert_eq!(check(REALM, &one, token, at(8)).await, None);
    assert!(check(REALM, &two, other, at(8)).await.is_some());
}

async fn a_registration_keeps_its_sessions_refresh_token(bench: Arc<Bench>) {
    let mut ann = account("ann");
    let (one, token) = (session(&ann, T0), new_token(T0));
    (ann.session, ann.refresh) = (Some(one.clone()), Some(token));
    assert_eq!(bench.store.register(REALM, &ann).await.unwrap(), Registered::Done);
    assert!(matches!(refresh(&bench.store, &one, token, at(1)).await, Refreshed::Rotated(_)));
}

async fn families_of_one_user_do_not_touch_each_other(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (one, token) = signed_in(&bench.store, &ann).await;
    let (two, other) = signed_in(&bench.store, &ann).await;
    assert!(matches!(refresh(&bench.store, &one, token, at(1)).await, Refreshed::Rotated(_)));
    assert!(matches!(refresh(&bench.store, &one, token, at(60_000)).await, Refreshed::Reused { .. }));
    assert!(matches!(refresh(&bench.store, &two, other, at(60_000)).await, Refreshed::Rotated(_)));
    // The same ids elsewhere are nobody's.
    let exchange =
        RefreshExchange { presented: successor(other).hash, successor: new_token(T0), grace: GRACE, idle: None };
    let elsewhere = bench.store.rotate_refresh("other", two.id, &exchange, at(60_001)).await.unwrap();
    assert_eq!(elsewhere, Refreshed::Unknown);
}
