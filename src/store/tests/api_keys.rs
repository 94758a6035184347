//! Keys under races: the cap, rotation, revocation, last use.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Created, Page, Revoked, Rotated, StoreError};
use super::{Bench, REALM, T0, key, on_both};
use crate::model::api_key::KeyHash;
use crate::model::change::Changed;
use crate::model::id::KeyId;
use crate::model::time::Timestamp;

on_both!(
    a_key_is_found_by_its_hash_in_its_realm_alone_and_by_id_in_its_organization_alone,
    the_cap_holds_against_twenty_at_once_and_counts_live_keys_only,
    a_rotated_key_ends_with_the_overlap_or_by_itself_whichever_is_first,
    of_ten_rotations_at_once_exactly_one_makes_a_successor,
    a_key_cannot_be_rotated_once_its_revocation_was_acknowledged,
    a_revocation_keeps_its_first_time_and_overtakes_a_scheduled_end,
    last_use_moves_forward_only_and_announces_nothing,
    pages_show_every_key_once,
    many_dead_keys_push_no_live_one_off_the_list,
);

fn at(secs: u64) -> Timestamp {
    T0.plus(Duration::from_secs(secs))
}

async fn a_key_is_found_by_its_hash_in_its_realm_alone_and_by_id_in_its_organization_alone(bench: Arc<Bench>) {
    let (ann, bob) = (bench.registered("ann").await, bench.registered("bob").await);
    let (mut one, hash) = key(&ann, T0);
    one.description = Some("for the ☃ job".into());
    one.expires_at = Some(at(99));
    assert_eq!(bench.store.create_key(REALM, &one, &hash, 1).await.unwrap(), Created::Done);
    assert_eq!(bench.store.key_by_hash(REALM, &hash).await.unwrap(), Some(one.clone()));
    assert_eq!(bench.store.key_by_hash("other", &hash).await.unwrap(), None);
    assert_eq!(bench.store.key_by_hash(REALM, &KeyHash([7; 32])).await.unwrap(), None);
    assert_eq!(bench.store.key(REALM, ann.org.id, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(bench.store.key(REALM, bob.org.id, one.id).await.unwrap(), None);
    assert_eq!(bench.store.revoke_key(REALM, bob.org.id, one.id, at(1)).await.unwrap(), Revoked::Unknown);
    assert_eq!(bench.store.keys(REALM, bob.org.id, Page::first(9)).await.unwrap(), []);
    one.name = "a\0".into();
    let refused = bench.store.create_key(REALM, &one, &KeyHash([8; 32]), 9).await;
    assert!(matches!(refused, Err(StoreError::Unstorable { what: "name" })));
}

async fn the_cap_holds_against_twenty_at_once_and_counts_live_keys_only(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    // Two that are over, and one in the overlap of a rotation, which still opens doors.
    for (expires_at, revoked_at) in [(Some(T0), None), (None, Some(T0)), (None, Some(at(1)))] {
        let (mut one, hash) = key(&ann, T0);
        (one.expires_at, one.revoked_at) = (expires_at, revoked_at);
        assert_eq!(bench.store.create_key(REALM, &one, &hash, 5).await.unwrap(), Created::Done);
    }
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (store, (one, hash)) = (bench.store.clone(), key(&ann, T0));
            tokio::spawn(async move { (store.create_key(REALM, &one, &hash, 5).await.unwrap(), one.id) })
        })
        .collect();
    let mut made = Vec::new();
    for one in all {
        if let (Created::Done, id) = one.await.unwrap() {
            made.push(id);
        }
    }
    assert_eq!(made.len(), 4);
    bench.store.revoke_key(REALM, ann.org.id, made[0], at(1)).await.unwrap();
    for _ in 0..2 {
        let (next, hash) = key(&ann, at(2));
        assert_eq!(bench.store.create_key(REALM, &next, &hash, 5).await.unwrap(), Created::Done);
    }
    let (last, hash) = key(&ann, at(2));
    assert_eq!(bench.store.create_key(REALM, &last, &hash, 5).await.unwrap(), Created::TooMany);
}

async fn a_rotated_key_ends_with_the_overlap_or_by_itself_whichever_is_first(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let org = ann.org.id;
    for (own_end, kept) in [(None, at(60)), (Some(at(30)), at(30))] {
        let (mut old, hash) = key(&ann, T0);
        old.revoked_at = own_end;
        bench.store.create_key(REALM, &old, &hash, 9).await.unwrap();
        let (next, next_hash) = key(&ann, at(1));
        let rotate = |key, hash| bench.store.rotate_key(REALM, org, old.id, key, hash, at(60), at(1));
        assert_eq!(rotate(&next, &next_hash).await.unwrap(), Rotated::Done);
        let now = bench.store.key(REALM, org, old.id).await.unwrap().unwrap();
        assert_eq!((now.revoked_at, now.replaced_by), (Some(kept), Some(next.id)));
        assert!(now.is_live(at(29)) && !now.is_live(kept));
        assert_eq!(bench.store.key_by_hash(REALM, &next_hash).await.unwrap(), Some(next.clone()));

        let (again, again_hash) = key(&ann, at(2));
        assert_eq!(rotate(&again, &again_hash).await.unwrap(), Rotated::NotLive, "replaced already");
        assert_eq!(bench.store.key_by_hash(REALM, &again_hash).await.unwrap(), None);
    }
    let (mut expired, hash) = key(&ann, T0);
    expired.expires_at = Some(at(5));
    bench.store.create_key(REALM, &expired, &hash, 99).await.unwrap();
    let (next, next_hash) = key(&ann, at(5));
    let rotate = |org, old| bench.store.rotate_key(REALM, org, old, &next, &next_hash, at(60), at(5));
    assert_eq!(rotate(org, expired.id).await.unwrap(), Rotated::NotLive);
    assert_eq!(rotate(org, next.id).await.unwrap(), Rotated::Unknown);
    let bob = bench.registered("bob").await;
    assert_eq!(rotate(bob.org.id, expired.id).await.unwrap(), Rotated::Unknown);
}

async fn of_ten_rotations_at_once_exactly_one_makes_a_successor(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (old, hash) = key(&ann, T0);
    bench.store.create_key(REALM, &old, &hash, 9).await.unwrap();
    let all: Vec<_> = (0..10)
        .map(|_| {
            let (store, (next, hash)) = (bench.store.clone(), key(&ann, at(1)));
            let (org, old) = (ann.org.id, old.id);
            tokio::spawn(async move { store.rotate_key(REALM, org, old, &next, &hash, at(60), at(1)).await.unwrap() })
        })
        .collect();
    let mut done = 0;
    for one in all {
        match one.await.unwrap() {
            Rotated::Done => done += 1,
            other => assert_eq!(other, Rotated::NotLive),
        }
    }
    assert_eq!(done, 1);
    assert_eq!(bench.store.keys(REALM, ann.org.id, Page::first(99)).await.unwrap().len(), 2);
}

async fn a_key_cannot_be_rotated_once_its_revocation_was_acknowledged(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let org = ann.org.id;
    for _ in 0..20 {
        let (old, hash) = key(&ann, T0);
        bench.store.create_key(REALM, &old, &hash, 1000).await.unwrap();
        let (store, (next, next_hash), id) = (bench.store.clone(), key(&ann, at(1)), old.id);
        let rotating =
            tokio::spawn(
                async move { store.rotate_key(REALM, org, id, &next, &next_hash, at(60), at(1)).await.unwrap() },
            );
        let Revoked::Done(record) = bench.store.revoke_key(REALM, org, id, at(1)).await.unwrap() else {
            panic!("the key is there")
        };
        assert_eq!(record.revoked_at, Some(at(1)), "not when the overlap would have ended");
        let rotated = rotating.await.unwrap();
        let now = bench.store.key(REALM, org, id).await.unwrap().unwrap();
        assert_eq!(now.revoked_at, Some(at(1)), "whichever came first");
        // Either the rotation came first, and the record shows it, or it was refused and made nothing.
        assert_eq!(rotated == Rotated::Done, now.replaced_by.is_some());
        assert_eq!(record.replaced_by, now.replaced_by);
    }
}

async fn a_revocation_keeps_its_first_time_and_overtakes_a_scheduled_end(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (mut one, hash) = key(&ann, T0);
    one.revoked_at = Some(at(60));
    bench.store.create_key(REALM, &one, &hash, 9).await.unwrap();
    for (now, kept) in [(at(70), at(60)), (at(20), at(20)), (at(30), at(20))] {
        let revoked = bench.store.revoke_key(REALM, ann.org.id, one.id, now).await.unwrap();
        one.revoked_at = Some(kept);
        assert_eq!(revoked, Revoked::Done(one.clone()));
    }
    let all = bench.store.changes_since(0, 9).await.unwrap();
    assert_eq!(all.len(), 1, "only what changed is announced");
    assert_eq!(all[0].1.changed, Changed::Key(one.id));
}

async fn last_use_moves_forward_only_and_announces_nothing(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let mut made = Vec::new();
    for _ in 0..450 {
        let (one, hash) = key(&ann, T0);
        bench.store.create_key(REALM, &one, &hash, 1000).await.unwrap();
        made.push(one.id);
    }
    let realm: Arc<str> = REALM.into();
    let used = |secs| made.iter().map(|id| (realm.clone(), *id, at(secs))).collect::<Vec<_>>();
    for (secs, kept) in [(60, 60), (30, 60), (90, 90)] {
        bench.store.touch_keys(&used(secs)).await.unwrap();
        let now = bench.store.keys(REALM, ann.org.id, Page::first(1000)).await.unwrap();
        assert!(now.len() == 450 && now.iter().all(|key| key.last_used_at == Some(at(kept))));
    }
    let gone = (realm.clone(), KeyId::from(ann.user.id.uuid()), T0);
    let elsewhere = ("other".into(), made[0], at(500));
    bench.store.touch_keys(&[gone, elsewhere]).await.unwrap();
    let first = bench.store.key(REALM, ann.org.id, made[0]).await.unwrap().unwrap();
    assert_eq!(first.last_used_at, Some(at(90)));
    assert_eq!(bench.store.change_head().await.unwrap(), 0);
}

async fn pages_show_every_key_once(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let mut made = Vec::new();
    for n in 0..7 {
        let (one, hash) = key(&ann, at(n));
        bench.store.create_key(REALM, &one, &hash, 9).await.unwrap();
        made.insert(0, one.id);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = bench.store.keys(REALM, ann.org.id, Page { after, limit: 3 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|key| key.id));
    }
    assert_eq!(seen, made, "newest first");
}

async fn many_dead_keys_push_no_live_one_off_the_list(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let (old, hash) = key(&ann, T0);
    bench.store.create_key(REALM, &old, &hash, 9).await.unwrap();
    let (mut ending, hash) = key(&ann, at(1));
    ending.expires_at = Some(at(100));
    bench.store.create_key(REALM, &ending, &hash, 9).await.unwrap();
    for n in 2..12 {
        let (dead, hash) = key(&ann, at(n));
        bench.store.create_key(REALM, &dead, &hash, 9).await.unwrap();
        bench.store.revoke_key(REALM, ann.org.id, dead.id, at(n)).await.unwrap();
    }
    let live = async |page, now| {
        let keys = bench.store.live_keys(REALM, ann.org.id, page, now).await.unwrap();
        keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(live(Page::first(2), at(50)).await, [ending.id, old.id]);
    assert_eq!(live(Page { after: Some(ending.id), limit: 2 }, at(50)).await, [old.id]);
    assert_eq!(live(Page::first(2), at(100)).await, [old.id], "its end is too late");
    // The end of an overlap is set and not reached.
    let (successor, hash) = key(&ann, at(200));
    bench.store.rotate_key(REALM, ann.org.id, old.id, &successor, &hash, at(300), at(200)).await.unwrap();
    assert_eq!(live(Page::first(9), at(299)).await, [successor.id, old.id]);
    assert_eq!(live(Page::first(9), at(300)).await, [successor.id]);
}
