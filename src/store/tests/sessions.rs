//! Sign-ins under races: room for so many sessions, and notes of use.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Started, Terms, sessions};
use super::{Bench, REALM, T0, at_once, new_user_id, on_both, session};
use crate::model::change::Changed;
use crate::model::id::SessionId;
use crate::model::session::Session;
use crate::model::time::Timestamp;

on_both!(
    the_oldest_sessions_make_room_for_a_new_one,
    however_many_sign_in_at_once_no_more_sessions_live_than_may,
    sessions_that_went_unused_make_room_first_and_end,
    use_moves_forward_only_and_wakes_nothing_that_has_ended,
    noting_use_and_ending_sessions_at_once_do_not_wait_for_each_other,
);

fn at(secs: u64) -> Timestamp {
    T0.plus(Duration::from_secs(secs))
}

fn room(most: u32) -> Terms {
    Terms { most: Some(most), ..Terms::default() }
}

fn ids(sessions: &[Session]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}

async fn the_oldest_sessions_make_room_for_a_new_one(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let theirs = session(&bob, T0);
    bench.store.start_session(REALM, &theirs, &room(2)).await.unwrap();
    let all: Vec<_> = (0..6).map(|n| session(&ann, at(n))).collect();
    for one in &all[..4] {
        assert_eq!(bench.store.start_session(REALM, one, &Terms::default()).await.unwrap(), Started::Done(vec![]));
    }
    // Where there are more than may be, because there was no bound before, all of them go.
    let started = bench.store.start_session(REALM, &all[4], &room(3)).await.unwrap();
    assert_eq!(started, Started::Done(vec![all[1].id, all[0].id]), "newest first");
    let live = bench.store.sessions(REALM, ann.user.id, at(5)).await.unwrap();
    assert_eq!(ids(&live), [all[4].id, all[3].id, all[2].id]);
    assert_eq!(bench.store.session(REALM, all[0].id).await.unwrap().unwrap().revoked_at, Some(at(4)));

    // One that has ended takes no room.
    assert!(bench.store.end_session(REALM, all[3].id, at(5)).await.unwrap());
    assert_eq!(bench.store.start_session(REALM, &all[5], &room(3)).await.unwrap(), Started::Done(vec![]));
    // The new one always starts.
    let last = session(&ann, at(6));
    assert_eq!(
        bench.store.start_session(REALM, &last, &room(0)).await.unwrap(),
        Started::Done(vec![all[5].id, all[4].id, all[2].id])
    );
    assert_eq!(bench.store.sessions(REALM, bob.user.id, at(6)).await.unwrap(), [theirs]);
    let told = bench.store.changes_since(0, 99).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|(_, change)| change.changed).collect();
    assert_eq!(told, [1, 0, 3, 5, 4, 2].map(|n: usize| Changed::Session(all[n].id)));
}

async fn however_many_sign_in_at_once_no_more_sessions_live_than_may(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let all: Vec<_> = (0..20).map(|_| session(&ann, T0)).collect();
    let answers = at_once(&bench, 20, |store, n| {
        let one = all[n].clone();
        async move { store.start_session(REALM, &one, &room(5)).await.unwrap() }
    })
    .await;
    let mut seen: Vec<SessionId> = ids(&bench.store.sessions(REALM, ann.user.id, at(1)).await.unwrap());
    assert_eq!(seen.len(), 5);
    for answer in answers {
        let Started::Done(ended) = answer else { panic!("{answer:?}") };
        seen.extend(ended);
    }
    assert_eq!(seen.len(), 20, "each lives, or was ended by one call");
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), ids(&all).into_iter().collect());
    assert_eq!(bench.store.change_head().await.unwrap(), 15);
}

async fn sessions_that_went_unused_make_room_first_and_end(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let all: Vec<_> = (0..3).map(|n| session(&ann, at(n))).collect();
    for one in &all {
        bench.store.start_session(REALM, one, &Terms::default()).await.unwrap();
    }
    // The oldest is in use; the one after it was last used exactly as long ago as it may, the third a moment less.
    bench.store.touch_sessions(&[(REALM.into(), all[0].id, at(60))]).await.unwrap();
    let terms = Terms { idle: Some(Duration::from_secs(100)), ..room(3) };
    let started = bench.store.start_session(REALM, &session(&ann, at(101)), &terms).await.unwrap();
    assert_eq!(started, Started::Done(vec![all[1].id]), "the oldest stays: it is in use");
    let started = bench.store.start_session(REALM, &session(&ann, at(102)), &terms).await.unwrap();
    assert_eq!(started, Started::Done(vec![all[2].id]));
}

async fn use_moves_forward_only_and_wakes_nothing_that_has_ended(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let mut all = Vec::new();
    for _ in 0..=2 * sessions::TOUCHED_AT_ONCE {
        let one = session(&ann, T0);
        bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
        all.push(one.id);
    }
    let realm: Arc<str> = REALM.into();
    let used = |secs| all.iter().map(|id| (realm.clone(), *id, at(secs))).collect::<Vec<_>>();
    for (secs, kept) in [(60, 60), (30, 60), (90, 90)] {
        bench.store.touch_sessions(&used(secs)).await.unwrap();
        let live = bench.store.sessions(REALM, ann.user.id, at(90)).await.unwrap();
        assert!(live.len() == all.len() && live.iter().all(|one| one.last_active_at == at(kept)));
    }
    bench.store.touch_sessions(&[]).await.unwrap();
    let gone = (realm.clone(), SessionId::from(new_user_id().uuid()), at(200));
    let elsewhere = ("other".into(), all[0], at(200));
    assert!(bench.store.end_session(REALM, all[1], at(100)).await.unwrap());
    bench.store.touch_sessions(&[gone, elsewhere, (realm, all[1], at(200))]).await.unwrap();
    for id in &all[..2] {
        assert_eq!(bench.store.session(REALM, *id).await.unwrap().unwrap().last_active_at, at(90));
    }
    assert_eq!(bench.store.change_head().await.unwrap(), 1, "the end alone is announced");
}

async fn noting_use_and_ending_sessions_at_once_do_not_wait_for_each_other(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for _ in 0..10 {
        let mut all = Vec::new();
        for _ in 0..sessions::TOUCHED_AT_ONCE {
            let one = session(&ann, T0);
            bench.store.start_session(REALM, &one, &Terms::default()).await.unwrap();
            all.push(one.id);
        }
        // In the order that an ending would not take.
        all.sort_unstable_by(|a, b| b.cmp(a));
        let used = |secs| all.iter().map(|id| (Arc::<str>::from(REALM), *id, at(secs))).collect::<Vec<_>>();
        at_once(&bench, 8, |store, n| {
            let (used, whose) = (used(u64::try_from(n).unwrap()), ann.user.id);
            async move {
                if n == 3 {
                    let ended = store.end_sessions(REALM, whose, None, at(9)).await.unwrap();
                    assert_eq!(ended.len(), sessions::TOUCHED_AT_ONCE);
                } else {
                    store.touch_sessions(&used).await.unwrap();
                }
            }
        })
        .await;
    }
}
