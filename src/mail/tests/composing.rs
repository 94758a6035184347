//! From facts to a message.

use super::*;
use crate::mail::{ComposeError, Kind};

fn off() -> Mailer {
    Mailer::new(&Settings { transport: Transport::Off, templates: None, at_once: 1 }).unwrap()
}

fn text(message: &Message) -> String {
    String::from_utf8(message.letter().unwrap().bytes).unwrap()
}

#[test]
fn each_kind_says_its_own_and_without_a_link_the_token_stands_bare() {
    let (mailer, token) = (off(), Secret::new(TOKEN.into()));
    let ttl = Duration::from_hours(24);
    for (content, kind, ends_in, link, bare) in [
        (Content::Verify { token: &token, ttl }, Kind::Verify, 24, false, true),
        (Content::Reset { token: &token, ttl }, Kind::Reset, 24, true, false),
        (Content::PasswordChanged, Kind::PasswordChanged, 72, false, false),
    ] {
        let message = mailer.compose(&brand(), "a@example.com", content, NOW, &SystemEntropy).unwrap();
        assert_eq!((message.kind(), message.ends_at()), (kind, NOW.plus(Duration::from_hours(ends_in))));
        let text = text(&message);
        assert_eq!(text.contains(&format!("\r\nhttps://app.vantage.example/reset?token={TOKEN}\r\n")), link, "{text}");
        assert_eq!(text.contains(&format!("\r\n{TOKEN}\r\n")), bare, "{text}");
        assert_eq!(text.contains("2026-11-20 09:40 UTC"), kind == Kind::PasswordChanged);
    }
}

#[test]
fn ids_differ_and_an_address_that_is_none_makes_no_mail() {
    let mailer = off();
    assert_ne!(reset(&mailer, "a@example.com").id(), reset(&mailer, "a@example.com").id());
    for bad in ["a@x.com\r\nBcc: b@y.com", "a@x.com\nSubject: x", "a", "", "a@x.com, b@y.com"] {
        let made = mailer.compose(&brand(), bad, Content::PasswordChanged, NOW, &SystemEntropy);
        assert!(matches!(made, Err(ComposeError::Address(_))), "{bad:?}");
    }
}

#[test]
fn whatever_the_brand_is_called_a_header_stays_one_header() {
    for product in [
        "B\u{fc}cher \u{1f4da}",
        "A \"quoted\", <b>name</b>",
        &"long word ".repeat(9),
        "=?utf-8?q?=0D=0ABcc:_b=40y.com?=",
    ] {
        let from = format!("{} <a@x.example>", product.replace(['<', '>', '"'], ""));
        let settings = brand::Settings { product: product.into(), from, ..brand::Settings::default() };
        let brand = Brand::new(&settings).unwrap_or_else(|bad| panic!("{product}: {bad:?}"));
        let message = off().compose(&brand, "a@example.com", Content::PasswordChanged, NOW, &SystemEntropy).unwrap();
        let text = text(&message);
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(head.is_ascii() && !head.contains("Bcc: "), "{head}");
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        let expected =
            ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];
        assert_eq!(names, expected, "{head}");
        assert!(head.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[test]
fn a_clock_that_is_far_off_stops_no_mail() {
    for millis in [i64::MIN, -1, 0, i64::MAX] {
        let now = Timestamp::from_millis(millis);
        let message = off().compose(&brand(), "a@example.com", Content::PasswordChanged, now, &SystemEntropy).unwrap();
        assert!(text(&message).contains("\r\nDate: "));
    }
}
