//! What crosses the gateway in a header, and what does not.
//!
//! Three moments, each a function, called in this order: [`Reserved::strip`] by the edge when a request
//! arrives, before anything reads its headers and on public routes too; [`forward`] by the edge when it
//! leaves, after which the gateway adds its own identity headers, so that nothing a client wrote can
//! name, double or delete one; `clean_response` by [`super::Pools`] on the way back. What frames a
//! message is [`super::framing`]'s.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, Version, response};
use smallvec::SmallVec;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What becomes of a header whose name is more than letters, digits and hyphens.
///
/// Backends that put headers into variables (CGI, WSGI, Rack, PHP) fold `-`, `_` and other characters into one, so
/// `X_User_Id` is `X-User-Id` to them (CVE-2025-64484, CVE-2026-33433). It is never forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OddNames {
    /// The request is refused: its sender learns that the header would not arrive.
    #[default]
    Refuse,
    /// The header is dropped, as nginx does.
    Drop,
}

/// The names under which the gateway tells backends who is asking. Nobody else may use them.
#[derive(Clone, Debug)]
pub struct Reserved {
    names: Vec<HeaderName>,
    /// Bit `n`: some name is `n` bytes long (63: or longer). Spares most headers the comparison.
    lengths: u64,
}

impl Reserved {
    /// The set of `names`.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let names: Vec<HeaderName> = names.into_iter().cloned().collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name));
        Self { names, lengths }
    }

    /// Removes every header that says, or that a backend could read as saying, what only the gateway says: the names
    /// themselves, and all that are odd ([`OddNames`]), after which one spelling is left. Tells whether any was odd.
    pub fn strip(&self, headers: &mut HeaderMap) -> bool {
        let mut odd = false;
        remove(headers, |name| {
            // A `HeaderName` is in lower case.
            let is_odd = !name.as_str().bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            odd |= is_odd;
            is_odd || (self.lengths & length_bit(name) != 0 && self.names.contains(name))
        });
        odd
    }
}

fn length_bit(name: &HeaderName) -> u64 {
    1 << name.as_str().len().min(63)
}

/// The value of a header that stands once.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// What the backend is told about the way a request came.
#[derive(Clone, Debug)]
pub struct Came {
    /// The client's address, as [`crate::rules::network::client_address`] found it.
    pub from: HeaderValue,
    /// `http` or `https`.
    pub scheme: HeaderValue,
    /// The host the site was chosen by.
    pub host: HeaderValue,
    /// The host that a trusted proxy was asked for, where that is another.
    pub asked: Option<HeaderValue>,
}

/// Readies a client's headers for a backend: everything that was meant for us alone goes, and everything
/// that says where the request came from or where it should go is the gateway's own word.
///
/// Add the identity headers after this: what the client's `Connection` names is deleted here
/// (CVE-2024-45410, CVE-2026-29054).
pub fn forward(headers: &mut HeaderMap, came: &Came) {
    let trailers_welcome = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    remove_named_by_connection(headers);
    remove(headers, |name| is_hop_by_hop(name.as_str()) || is_routing_hint(name.as_str()));
    if trailers_welcome {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    join_cookies(headers);
    headers.insert(HOST, came.host.clone());
    headers.insert(X_FORWARDED_HOST, came.asked.as_ref().unwrap_or(&came.host).clone());
    headers.insert(X_FORWARDED_FOR, came.from.clone());
    headers.insert(X_FORWARDED_PROTO, came.scheme.clone());
}

/// HTTP/2 splits cookies over several lines; HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (values.next(), values.next()) {
        let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Readies a backend's answer for a client, or says why it cannot be believed.
pub(super) fn clean_response(response: &mut response::Parts) -> Result<(), &'static str> {
    let headers = &mut response.headers;
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("a transfer coding other than `chunked`");
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("Transfer-Encoding beside a Content-Length");
        }
    }
    // hyper has refused lengths that differ; "5, 5" and two lines of 5 become one.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let bytes = length.as_bytes();
        if lengths.next().is_some() || bytes.contains(&b',') {
            let first = bytes.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            let first = HeaderValue::from_bytes(first).map_err(|_| "a malformed Content-Length")?;
            headers.insert(CONTENT_LENGTH, first);
        }
    }
    if response.status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    remove_named_by_connection(headers);
    // `Trailer` stays: it announces what the client may read after the body.
    remove(headers, |name| is_hop_by_hop(name.as_str()) && name != http::header::TRAILER);
    response.version = Version::HTTP_11;
    Ok(())
}

/// Removes from an answer's trailer section what may only stand in a head (RFC 9110 section 6.5.1).
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| belongs_in_a_head(name.as_str()));
}

/// Removes from a client's trailer section what may only stand in a head, what only the gateway says, and whatever
/// could tell a backend who asks, from where and for what: all of that was decided on when the head came.
pub(super) fn clean_request_trailers(trailers: &mut HeaderMap, reserved: &Reserved) {
    reserved.strip(trailers);
    remove(trailers, |name| {
        let name = name.as_str();
        belongs_in_a_head(name)
            || is_routing_hint(name)
            || matches!(name, "x-request-id" | "traceparent" | "tracestate")
            || name.contains("api-key")
    });
}

/// Fields that frame, route, authenticate or describe a message: in a trailer they come too late to be true.
fn belongs_in_a_head(name: &str) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name,
            "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "host"
                | "max-forwards"
                | "range"
                | "set-cookie"
                | "www-authenticate"
        )
}

/// Whether a field of this name (in lower case) frames a message or concerns one hop: no configuration changes it.
pub fn frames(name: &str) -> bool {
    is_hop_by_hop(name) || name == "content-length"
}

/// Fields about one connection only (RFC 9110 section 7.6.1 and the older ones); `Expect` is answered by
/// our own server, and `Trailer` goes since client trailers are never forwarded.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Fields by which some backends learn the client's address, or act on another host, path or method than
/// the request line's, the one that was decided on. From a client they are lies, and a proxy before us
/// has had its say by now.
fn is_routing_hint(name: &str) -> bool {
    name.starts_with("x-forwarded")
        || name.starts_with("x-original-")
        || name.starts_with("x-envoy-")
        || says_certificate(name)
        || matches!(
            name,
            "cf-connecting-ip"
                | "cf-connecting-ipv6"
                | "client-ip"
                | "fastly-client-ip"
                | "forwarded"
                | "front-end-https"
                | "proxy-client-ip"
                | "true-client-ip"
                | "wl-proxy-client-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-host"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
                | "x-real-ip"
                | "x-originating-ip"
                | "x-override-url"
                | "x-proxyuser-ip"
                | "x-rewrite-url"
                | "x-scheme"
                | "x-url-scheme"
        )
}

/// Fields in which proxies tell what certificate a client has shown them (RFC 9440 and its many forerunners;
/// `X-Forwarded-Client-Cert` is among the routing hints). What was shown to us stands in identity headers.
fn says_certificate(name: &str) -> bool {
    const BEGINNINGS: [&str; 6] =
        ["client-cert", "ssl-client-", "x-amzn-mtls-", "x-arr-clientcert", "x-client-cert", "x-ssl-client-"];
    matches!(name.as_bytes().first(), Some(b'c' | b's' | b'x'))
        && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    // Named most often, and removed in any case ([`is_hop_by_hop`]).
    let others = |name: &&[u8]| !name.eq_ignore_ascii_case(b"keep-alive");
    let names = tokens(headers, &CONNECTION).filter(others).filter_map(|name| HeaderName::from_bytes(name).ok());
    let names: SmallVec<[HeaderName; 4]> = names.collect();
    for name in names {
        headers.remove(name);
    }
}

/// The comma-separated tokens of all lines of `name`: a rule that reads one line is a rule that is talked past.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).iter().flat_map(split)
}

fn split(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Removes every header whose name is `doomed`.
pub fn remove(headers: &mut HeaderMap, mut doomed: impl FnMut(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a head asks for, or agrees to, a protocol of this name and no other.
pub(super) fn upgrades_to(headers: &HeaderMap, protocol: &[u8]) -> bool {
    let mut offers = tokens(headers, &UPGRADE);
    offers.next().is_some_and(|offer| offer.eq_ignore_ascii_case(protocol))
        && offers.next().is_none()
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

#[cfg(test)]
mod tests {
    use http::Response;
    use proptest::prelude::*;

    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        headers
    }

    fn came() -> Came {
        Came {
            from: HeaderValue::from_static("203.0.113.9"),
            scheme: HeaderValue::from_static("https"),
            host: HeaderValue::from_static("api.example.com"),
            asked: None,
        }
    }

    fn reserved() -> Reserved {
        Reserved::new([&HeaderName::from_static("x-user-id"), &HeaderName::from_static("x-org-id")])
    }

    #[test]
    fn no_spelling_of_an_identity_header_gets_in() {
        let mut headers = head(&[
            ("X-User-Id", "a"),
            ("x-user-id", ""),
            ("X_USER_ID", "b"),
            ("x-user_id", "c"),
            ("X.User.Id", "d"),
            ("X-Org-Id", "e"),
            ("X-User-Idx", "honest"),
            ("Accept", "*/*"),
        ]);
        assert!(reserved().strip(&mut headers), "some were odd");
        assert_eq!(headers, head(&[("x-user-idx", "honest"), ("accept", "*/*")]));
        let mut headers = head(&[("X-User-Id", "a"), ("x-user-idx", "honest")]);
        assert!(!reserved().strip(&mut headers), "reserved, and spelt as it should be");
        assert_eq!(headers, head(&[("x-user-idx", "honest")]));
    }

    #[test]
    fn connection_deletes_what_the_client_sent_and_nothing_of_ours() {
        let mut headers = head(&[
            ("Connection", "close, X-Custom"),
            ("connection", "x-user-id , X-Forwarded-For,host,, b@d name"),
            ("X-Custom", "1"),
            ("X-Kept", "2"),
            ("Host", "elsewhere"),
        ]);
        forward(&mut headers, &came());
        headers.insert("x-user-id", HeaderValue::from_static("user_1"));
        assert_eq!(
            headers,
            head(&[
                ("x-kept", "2"),
                ("host", "api.example.com"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-proto", "https"),
                ("x-user-id", "user_1"),
            ])
        );
    }

    #[test]
    fn what_a_client_says_of_its_way_here_changes_nothing() {
        let mut lies = head(&[
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Port", "1"),
            ("X-Forwarded-Uri", "/public"),
            ("X-Forwarded-Prefix", "/x"),
            ("X-Forwarded-Server", "x"),
            ("Forwarded", "for=127.0.0.1"),
            ("X-Real-IP", "127.0.0.1"),
            ("X-Forwarded-Client-Cert", "Subject=\"CN=root\""),
            ("X-Forwarded-Tls-Client-Cert", "AAAA"),
            ("Client-Cert", ":AAAA:"),
            ("Client-Cert-Chain", ":AAAA:"),
            ("Ssl-Client-Verify", "SUCCESS"),
            ("X-Ssl-Client-S-Dn", "CN=root"),
            ("X-Client-Cert", "AAAA"),
            ("X-Amzn-Mtls-Clientcert-Subject", "CN=root"),
            ("X-Arr-Clientcert", "AAAA"),
            ("X-Original-URL", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("X-Override-URL", "/admin"),
            ("X-Scheme", "http"),
            ("Front-End-Https", "on"),
            ("WL-Proxy-Client-IP", "127.0.0.1"),
            ("x-envoy-original-path", "/admin"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Proxy-Authorization", "Basic eA=="),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABk"),
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("TE", "gzip"),
            ("Trailer", "X-User-Id"),
        ]);
        let mut honest = HeaderMap::new();
        forward(&mut lies, &came());
        forward(&mut honest, &came());
        assert_eq!(lies, honest);
        assert_eq!(honest.len(), 4);
    }

    fn cleaned(lines: &[(&'static str, &'static str)]) -> Result<HeaderMap, &'static str> {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.headers = head(lines);
        clean_response(&mut parts).map(|()| parts.headers)
    }

    #[test]
    fn an_answer_keeps_its_own_headers_and_loses_the_connections() {
        let answer = cleaned(&[
            ("Connection", "keep-alive, X-Hop"),
            ("Keep-Alive", "timeout=5"),
            ("X-Hop", "1"),
            ("Upgrade", "h2c"),
            ("Content-Length", "5"),
            ("content-length", "5"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Trailer", "X-Sum"),
        ]);
        assert_eq!(cleaned(&[("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=5")]).unwrap(), HeaderMap::new());
        let wanted = [("content-length", "5"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("trailer", "X-Sum")];
        assert_eq!(answer.unwrap(), head(&wanted));
        assert!(cleaned(&[("transfer-encoding", "chunked")]).is_ok());
        for bad in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(cleaned(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_upgrade_is_to_one_protocol_and_named_by_connection() {
        let asks = |lines| upgrades_to(&head(lines), b"websocket");
        assert!(asks(&[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")]));
        assert!(!asks(&[("upgrade", "websocket")]));
        assert!(!asks(&[("upgrade", "websocket, h2c"), ("connection", "upgrade")]));
        assert!(!asks(&[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")]));
        assert!(!asks(&[("upgrade", "h2c"), ("connection", "upgrade")]));
    }
    /// A name that some backend takes for `x-user-id`: any case, any separator.
    fn disguise() -> impl Strategy<Value = String> {
        "[xX][-_.~!*'|+^`][uU]ser[-_.~!*'|+^`][iI][dD]"
    }

    proptest! {
        #[test]
        fn no_disguise_and_no_connection_header_touches_an_identity(
            names in prop::collection::vec(disguise(), 0..4),
            connection in prop::collection::vec(prop_oneof![disguise(), Just("X-User-Id".to_owned()), "[ -~]{0,12}"], 0..4),
        ) {
            let mut headers = head(&[("x-honest", "1")]);
            for name in &names {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("root"));
            }
            for line in connection.iter().filter(|line| !line.contains("onest")) {
                headers.append(CONNECTION, HeaderValue::from_str(line).unwrap());
            }
            reserved().strip(&mut headers);
            prop_assert!(headers.values().all(|value| value != "root"));
            forward(&mut headers, &came());
            headers.insert("x-user-id", HeaderValue::from_static("user_1"));
            let mut honest = head(&[("x-honest", "1")]);
            forward(&mut honest, &came());
            honest.insert("x-user-id", HeaderValue::from_static("user_1"));
            prop_assert_eq!(headers, honest);
        }
    }
}
