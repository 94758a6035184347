//! Mails at rest.

use super::*;
use crate::mail::{OpenError, SealKey, open};
use crate::model::entropy::TestEntropy;

fn key(pepper: &str, realm: &str) -> SealKey {
    SealKey::derive(&Secret::new(pepper.into()), realm)
}

fn message() -> Message {
    let off = Mailer::new(&Settings { transport: Transport::Off, templates: None, at_once: 1 }).unwrap();
    let token = Secret::new(TOKEN.into());
    let content = Content::Reset { token: &token, ttl: Duration::from_hours(1) };
    let brand = Brand::new(&brand::Settings {
        product: "B\u{fc}cher".into(),
        from: "\"B\u{fc}cher, Inc.\" <no-reply@b\u{fc}cher.example>".into(),
        reply_to: Some("help@b\u{fc}cher.example".into()),
        ..brand::Settings::default()
    });
    off.compose(&brand.unwrap(), "Jos\u{e9}@b\u{fc}cher.example", content, NOW, &TestEntropy::new(1)).unwrap()
}

#[test]
fn a_sealed_mail_opens_to_the_same_bytes() {
    let (message, key) = (message(), key("pepper", "realm"));
    let opened = key.open(&key.seal(&message, &SystemEntropy)).unwrap();
    let (one, two) = (message.letter().unwrap(), opened.letter().unwrap());
    assert!(one.bytes == two.bytes && one.from == two.from && one.to == two.to);
    assert_eq!((opened.id(), opened.kind(), opened.ends_at()), (message.id(), message.kind(), message.ends_at()));
    assert_eq!(opened.ends_at(), NOW.plus(Duration::from_hours(1)));
}

#[test]
fn whoever_reads_the_table_reads_nothing_and_no_two_seals_are_alike() {
    let key = key("pepper", "realm");
    let (one, two) = (key.seal(&message(), &SystemEntropy), key.seal(&message(), &SystemEntropy));
    for word in [TOKEN, "xn--bcher", "reset", "text", "Jos"] {
        assert!(!one.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
    }
    let same = one.iter().zip(&two).skip(5).filter(|(one, two)| one == two).count();
    assert!(one.len() == two.len() && same < one.len() / 50, "{same} of {} bytes", one.len());
}

#[test]
fn another_secret_or_another_realm_opens_nothing() {
    let sealed = key("pepper", "realm").seal(&message(), &SystemEntropy);
    for other in [key("Pepper", "realm"), key("pepper", "other"), key("", "")] {
        assert!(!other.fits(&sealed));
        assert_eq!(other.open(&sealed).unwrap_err(), OpenError::UnknownKey);
    }
    let keys = [key("new", "realm"), key("pepper", "other"), key("pepper", "realm")];
    assert_eq!(open(&keys, &sealed).unwrap().id(), message().id());
    assert_eq!(open(&keys[..2], &sealed).unwrap_err(), OpenError::UnknownKey);
}

#[test]
fn a_seal_that_was_changed_or_cut_off_anywhere_does_not_open() {
    let key = key("pepper", "realm");
    let sealed = key.seal(&message(), &SystemEntropy);
    for at in (0..40).chain(sealed.len() - 20..sealed.len()).chain([sealed.len() / 2]) {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(key.open(&changed).is_err(), "changed at {at}");
        assert!(key.open(&sealed[..at]).is_err(), "cut at {at}");
    }
    assert!(key.open(&[&sealed[..], &[0]].concat()).is_err());
    key.open(&sealed).unwrap();
}
