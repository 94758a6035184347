//! What trusted proxies say in `Forwarded` (RFC 7239): who the client is, and how it asked.
//!
//! As with `X-Forwarded-For` ([`super::network`]) only the right end can be believed, and only as far as the proxies
//! that wrote it are ours. So it is read from the right, quotes too: a client that leaves a quote open on the left
//! swallows nothing of what a proxy appends.

use std::net::IpAddr;

use ipnet::IpNet;

use super::network::{address, trusts};

/// What is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// `http` or `https`, in whatever case, or nonsense: as the outermost trusted proxy saw it.
    pub proto: Option<&'a [u8]>,
    /// The host that the client asked that proxy for.
    pub host: Option<&'a [u8]>,
}

/// Reads the values of all `Forwarded` lines in their order. The walk ends at the first hop that is not a trusted proxy,
/// that hides itself (`unknown`, `_name`), or whose element does not parse.
pub fn said<'a>(peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>, trusted: &[IpNet]) -> Said<'a> {
    let mut said = Said { client: peer.to_canonical(), proto: None, host: None };
    for element in lines.rev().flat_map(|line| FromRight(Some(line))) {
        if !trusts(trusted, said.client) {
            break;
        }
        let Some(hop) = Hop::read(element) else { break };
        (said.proto, said.host) = (hop.proto, hop.host);
        let Some(client) = hop.client.and_then(address) else { break };
        said.client = client;
    }
    said
}

/// The elements of a line, the last one first.
struct FromRight<'a>(Option<&'a [u8]>);

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.take()?;
        let mut quoted = false;
        for at in (0..rest.len()).rev() {
            match rest[at] {
                b'"' if !is_escaped(rest, at) => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&rest[..at]);
                    return Some(&rest[at + 1..]);
                }
                _ => {}
            }
        }
        Some(rest)
    }
}

/// Whether an odd number of backslashes stands before it.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// One element: `for=192.0.2.1;proto=https;host=example.com`.
#[derive(Default)]
struct Hop<'a> {
    client: Option<&'a [u8]>,
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
}

impl<'a> Hop<'a> {
    /// `None` when it does not parse, or says something twice.
    fn read(element: &'a [u8]) -> Option<Self> {
        let mut hop = Self::default();
        let mut rest = element.trim_ascii();
        while !rest.is_empty() {
            let equals = rest.iter().position(|byte| *byte == b'=')?;
            let (name, after) = (rest[..equals].trim_ascii(), &rest[equals + 1..]);
            let quoted = after.strip_prefix(b"\"");
            let (value, after) = if let Some(quoted) = quoted {
                let end = (0..quoted.len()).find(|at| quoted[*at] == b'"' && !is_escaped(quoted, *at))?;
                (&quoted[..end], quoted[end + 1..].trim_ascii())
            } else {
                after.split_at(after.iter().position(|byte| *byte == b';').unwrap_or(after.len()))
            };
            // A quote that is nobody's: seen from the right it opens what is none, and takes in what a client has written
            // on its left.
            if name.contains(&b'"') || (quoted.is_none() && value.contains(&b'"')) {
                return None;
            }
            let place = if name.eq_ignore_ascii_case(b"for") {
                Some(&mut hop.client)
            } else if name.eq_ignore_ascii_case(b"proto") {
                Some(&mut hop.proto)
            } else if name.eq_ignore_ascii_case(b"host") {
                Some(&mut hop.host)
            } else {
                None
            };
            if place.is_some_and(|place| place.replace(value.trim_ascii()).is_some()) {
                return None;
            }
            rest = match after {
                [] => after,
                [b';', after @ ..] => after.trim_ascii(),
                _ => return None,
            };
        }
        Some(hop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(peer: &str, lines: &[&str]) -> (String, Option<String>, Option<String>) {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let said = said(peer.parse().unwrap(), lines.iter().map(|line| line.as_bytes()), &trusted);
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (said.client.to_string(), text(said.proto), text(said.host))
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        walk(peer, lines).0
    }

    #[test]
    fn a_stranger_says_nothing_that_counts() {
        assert_eq!(walk("203.0.113.9", &["for=198.51.100.1;proto=https;host=x"]), ("203.0.113.9".into(), None, None));
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_what_the_client_wrote_is_ignored() {
        for line in [
            "for=198.51.100.1",
            "For=198.51.100.1:4711;proto=http",
            "for=1.1.1.1, for=198.51.100.1",
            "for=1.1.1.1, for=198.51.100.1, for=10.2.3.4",
            "for=\"198.51.100.1:4711\" ; by=10.0.0.1",
            "for=\"[::ffff:198.51.100.1]:1\"",
            "by=_x;proto=https;for=198.51.100.1",
        ] {
            assert_eq!(client("10.0.0.1", &[line]), "198.51.100.1", "{line}");
        }
        assert_eq!(client("10.0.0.1", &["for=1.1.1.1", "for=198.51.100.1", "for=\"[fd00::7]\""]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["for=\"[2001:db8::17]:4711\""]), "2001:db8::17");
    }

    #[test]
    fn no_quote_of_a_clients_swallows_what_a_proxy_appends() {
        for lie in ["for=\"1.1.1.1", "for=\"a\\", "\"", "\\\"", "for=\"1.1.1.1, for=2.2.2.2\\\"", "a=\",", "\u{e9}"] {
            let line = format!("{lie}, for=198.51.100.1");
            assert_eq!(client("10.0.0.1", &[&line]), "198.51.100.1", "{line}");
            assert_eq!(client("10.0.0.1", &[lie, "for=198.51.100.1"]), "198.51.100.1", "{lie}");
        }
    }

    #[test]
    fn a_quote_that_a_proxy_passes_on_as_it_came_lets_nobody_speak_for_it() {
        for host in ["a\"b", "\\\"", "a\""] {
            for front in ["", "for=1.1.1.1, ", "for=1.1.1.1;proto=https;x=, "] {
                let line = format!("{front}for=198.51.100.1;host={host}");
                assert_eq!(walk("10.0.0.1", &[&line]), ("10.0.0.1".into(), None, None), "{line}");
            }
        }
        for front in ["", "for=1.1.1.1, "] {
            let line = format!("{front}for=198.51.100.1;host=\"a\\\"b\"");
            assert_eq!(client("10.0.0.1", &[&line]), "198.51.100.1", "{line}");
        }
    }

    #[test]
    fn the_walk_ends_at_who_hides_and_at_garbage() {
        for hidden in ["for=unknown", "for=_hidden", "for=\"_x:80\"", "proto=https", "", ";", "for", "for=\"1.1.1.1\"x"]
        {
            let line = format!("for=1.1.1.1, {hidden}");
            assert_eq!(client("10.0.0.1", &[&line]), "10.0.0.1", "{line}");
        }
        assert_eq!(client("10.0.0.1", &["for=1.1.1.1;for=2.2.2.2"]), "10.0.0.1", "said twice");
        assert_eq!(client("10.0.0.1", &["for=1.1.1.1, for=_h, for=10.0.0.7"]), "10.0.0.7");
    }

    #[test]
    fn scheme_and_host_are_those_of_the_outermost_trusted_proxy() {
        let two = "for=9.9.9.9;proto=gopher;host=evil, for=198.51.100.1;proto=https;host=\"api.example.com:8443\", \
                   for=10.0.0.2;proto=http;host=inner";
        let (client, proto, host) = walk("10.0.0.1", &[two]);
        assert_eq!(
            (client.as_str(), proto.as_deref(), host.as_deref()),
            ("198.51.100.1", Some("https"), Some("api.example.com:8443"))
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_left_changes_nothing(lies in prop::collection::vec(any::<Vec<u8>>(), 0..4), same_line in any::<bool>()) {
            let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
            let honest = b"for=198.51.100.1;proto=https".to_vec();
            let mut lines = lies;
            match lines.last_mut() {
                Some(last) if same_line => { last.extend(b", "); last.extend(&honest); }
                _ => lines.push(honest),
            }
            let said = said("10.0.0.1".parse().unwrap(), lines.iter().map(Vec::as_slice), &trusted);
            prop_assert_eq!(said.client.to_string(), "198.51.100.1");
            prop_assert_eq!(said.proto, Some(&b"https"[..]));
        }
    }
}
