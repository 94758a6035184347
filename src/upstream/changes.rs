//! What a route changes in the headers of its requests and answers, beside what the gateway always does.
//!
//! Made by `config`, which refuses the names that frame a message, that concern one hop, or that only the gateway may
//! set; applied by the edge, before identity is added and after the backend's answer was cleaned.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Changes to one direction's headers: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Every value of these goes.
    pub remove: Vec<HeaderName>,
    /// These have this one value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// These get one more value.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl Changes {
    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_are_replaced_and_come() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::new();
        for (own, text) in [("server", "x"), ("server", "y"), ("vary", "origin"), ("x-version", "1"), ("date", "now")] {
            headers.append(name(own), value(text));
        }
        let changes = Changes {
            remove: vec![name("server"), name("x-nothing")],
            set: vec![(name("x-version"), value("2"))],
            add: vec![(name("vary"), value("accept"))],
        };
        changes.apply(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("date", "now"), ("vary", "accept"), ("vary", "origin"), ("x-version", "2")]);
    }
}
