//! One JSON object, written field by field: for the line that every request costs.
//!
//! `serde_json` looks at every byte of every name and value, one after another. Here names are constants, copied with the
//! comma before and the colon behind them, and text is looked at many bytes at once: only where it holds anything but
//! printable ASCII without quotes and backslashes is it `serde_json`'s to escape, as is all that is neither text nor id.

use std::cell::RefCell;
use std::net::IpAddr;

use serde::Serialize;
use uuid::Uuid;

use crate::model::time::Timestamp;

/// An object that is being written. Each name is given as it stands in JSON: `,"site":`.
pub(super) struct Object<'a>(pub(super) &'a mut Vec<u8>);

impl Object<'_> {
    /// Text.
    #[inline]
    pub(super) fn text(&mut self, name: &'static str, text: Option<&str>) {
        match text {
            Some(text) if is_plain(text) => self.quoted(name, text.as_bytes()),
            Some(text) => self.value(name, &text),
            None => self.null(name),
        }
    }

    /// An id of 128 bits, as 32 lower-case hexadecimal digits.
    #[inline]
    pub(super) fn id(&mut self, name: &'static str, id: Option<Uuid>) {
        match id {
            Some(id) => self.quoted(name, id.simple().encode_lower(&mut [0; 32]).as_bytes()),
            None => self.null(name),
        }
    }

    /// An address.
    pub(super) fn address(&mut self, name: &'static str, address: IpAddr) {
        let IpAddr::V4(address) = address else { return self.text(name, Some(&address.to_string())) };
        self.raw(name.as_bytes());
        self.raw(b"\"");
        for (at, octet) in address.octets().iter().enumerate() {
            if at > 0 {
                self.raw(b".");
            }
            self.value("", octet);
        }
        self.raw(b"\"");
    }

    /// A time, as RFC 3339 has it.
    pub(super) fn time(&mut self, name: &'static str, time: Timestamp) {
        thread_local! {
            /// The last second that was written, as text up to its point: most lines are of the same one.
            static SECOND: RefCell<(Option<i64>, String)> = const { RefCell::new((None, String::new())) };
        }
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != Some(time.secs()) {
                *text = time.to_rfc3339();
                text.truncate(text.len() - "123Z".len());
                *second = Some(time.secs());
            }
            self.raw(name.as_bytes());
            self.raw(b"\"");
            self.raw(text.as_bytes());
        });
        let millis = time.millis().rem_euclid(1000);
        let digit = |number: i64| b'0' + u8::try_from(number % 10).unwrap_or(0);
        self.raw(&[digit(millis / 100), digit(millis / 10), digit(millis), b'Z', b'"']);
    }

    /// Anything else.
    #[inline]
    pub(super) fn value(&mut self, name: &'static str, value: &impl Serialize) {
        self.raw(name.as_bytes());
        // Writing to memory does not fail, and no map here has a key that is not text.
        let _ = serde_json::to_writer(&mut *self.0, value);
    }

    #[inline]
    fn null(&mut self, name: &'static str) {
        self.raw(name.as_bytes());
        self.raw(b"null");
    }

    #[inline]
    fn quoted(&mut self, name: &'static str, text: &[u8]) {
        self.raw(name.as_bytes());
        self.raw(b"\"");
        self.raw(text);
        self.raw(b"\"");
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// Whether `text` stands in JSON as it is. Without a way out in between, so that the compiler takes many bytes at once.
#[inline]
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~'))
}
