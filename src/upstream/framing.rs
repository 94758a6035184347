//! Where a message begins and ends: one reading, or none.
//!
//! [`check`] refuses what two parsers could read differently, before the edge decides anything;
//! `reframe` writes the framing of what is forwarded anew, from the body that is really sent, so that
//! no length a client wrote reaches a backend by itself.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version, request};
use http_body::Body as _;

use super::body::Body;
use crate::model::problem::Problem;

/// Refuses a request whose framing or authority two parsers could read differently: what hyper's own
/// checks (bad lengths, HTTP/1.0 with `Transfer-Encoding`) leave over.
pub fn check(request: &request::Parts) -> Result<(), Problem> {
    let refuse = |why| Err(Problem::MalformedRequest(why));
    let headers = &request.headers;
    if request.method == Method::CONNECT || request.method == Method::TRACE {
        // TRACE would show a client the headers that only the backend is meant to see (RFC 9110 section 9.3.8).
        return refuse("CONNECT and TRACE are not served");
    }
    // Methods are case-sensitive (RFC 9110 section 9.1) and some backends fold them: `post` would be no POST to a
    // guard and one to the backend.
    if request.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return refuse("methods are in upper case");
    }
    if request.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return refuse("the request target is of another scheme than http and https");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // "gzip, chunked" would be taken apart by hyper and forwarded still compressed.
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return refuse("the only transfer coding served is `chunked`, once");
        }
        if headers.contains_key(CONTENT_LENGTH) || request.version != Version::HTTP_11 {
            return refuse("Transfer-Encoding beside a Content-Length or outside of HTTP/1.1");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit))
        || lengths.next().is_some()
    {
        return refuse("Content-Length is one number");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    match (host, request.uri.authority()) {
        _ if second.is_some() => refuse("more than one Host"),
        // Also where a site serves every name: its backend is told this one (RFC 9110 section 7.2).
        (Some(host), _) if !is_host(host.as_bytes()) => refuse("the Host header is no host"),
        // HTTP/1.1 says it also beside a target in absolute form (RFC 9112 section 3.2).
        (None, None) if request.version != Version::HTTP_10 => refuse("no Host"),
        (None, _) if request.version == Version::HTTP_11 => refuse("no Host"),
        (_, Some(authority)) if authority.as_str().contains('@') => refuse("user information in the request target"),
        (_, Some(authority)) if !is_host(authority.as_str().as_bytes()) => {
            refuse("the request target's authority is no host")
        }
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            refuse("Host and the request target disagree")
        }
        _ => Ok(()),
    }
}

/// A name or an address, and a port or none: nothing that could end a host in somebody's URL.
pub fn is_host(host: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !host.is_empty() && host.iter().all(fits)
}

/// Makes a request one whole HTTP/1.1 message in origin form. Whatever [`reframe_http2`] made of it before.
pub(super) fn reframe(request: &mut Request<Body>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        let parts = std::mem::take(request.uri_mut()).into_parts();
        if let Some(authority) = parts.authority.filter(|_| !request.headers().contains_key(HOST))
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    if request.headers().contains_key(TE) && !request.headers().contains_key(CONNECTION) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // hyper believes these over the body, and would send a length with no body behind it: the next
    // request on the connection would then be read as the missing bytes.
    request.headers_mut().remove(TRANSFER_ENCODING);
    match length(request) {
        Length::Nothing => {}
        Length::Known(length) => {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said here since hyper otherwise drops the body of a GET (RFC 9110 section 9.3.1 lets it have one).
        Length::Unknown => {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// Makes a request an HTTP/2 message (RFC 9113 section 8.3.1): where it goes stands in its target, and nothing in it is
/// about a connection. `None` where it has no host that could stand there.
pub(super) fn reframe_http2(request: &mut Request<Body>, scheme: Scheme) -> Option<()> {
    *request.version_mut() = Version::HTTP_2;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = request.headers_mut().remove(HOST) {
        parts.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    }
    parts.authority.as_ref()?;
    parts.scheme = Some(scheme);
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(TRANSFER_ENCODING);
    if let Length::Known(length) = length(request) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Some(())
}

enum Length {
    /// There is no body, and nobody expects one.
    Nothing,
    Known(u64),
    Unknown,
}

/// How long the body really is; what the client wrote of it is gone then.
fn length(request: &mut Request<Body>) -> Length {
    request.headers_mut().remove(CONTENT_LENGTH);
    match request.body().size_hint().exact() {
        Some(0) if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => Length::Nothing,
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn checked(version: Version, uri: &'static str, lines: &[(&'static str, &'static str)]) -> bool {
        let (mut parts, ()) = Request::builder().version(version).uri(uri).body(()).unwrap().into_parts();
        parts.headers = head(lines);
        check(&parts).is_ok()
    }

    #[test]
    fn framing_and_host_have_one_reading_or_none() {
        let host = ("host", "a.example");
        for honest in [
            &[host][..],
            &[host, ("content-length", "10")],
            &[host, ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "Chunked")],
        ] {
            assert!(checked(Version::HTTP_11, "/", honest), "{honest:?}");
        }
        for bad in [
            &[][..],
            &[host, host],
            &[host, ("content-length", "10"), ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "gzip, chunked")],
            &[host, ("transfer-encoding", "identity")],
            &[host, ("content-length", "10"), ("content-length", "10")],
            &[host, ("content-length", "+1")],
        ] {
            assert!(!checked(Version::HTTP_11, "/", bad), "{bad:?}");
        }
        for host in ["a.example:8443", "127.0.0.1", "[::1]:80", "a_b.example."] {
            assert!(checked(Version::HTTP_11, "/", &[("host", host)]), "{host}");
        }
        for host in ["", "a b", "a/../b", "a@b", "a,b", "a?x", "a#x", "a\\b", "http://a", "<a>", "a%2eb"] {
            assert!(!checked(Version::HTTP_11, "/", &[("host", host)]), "{host}");
            assert!(!checked(Version::HTTP_10, "/", &[("host", host)]), "{host}");
        }
        assert!(checked(Version::HTTP_10, "/", &[]));
        assert!(!checked(Version::HTTP_10, "/", &[("transfer-encoding", "chunked")]));
        assert!(checked(Version::HTTP_2, "https://a.example/", &[]));
        assert!(checked(Version::HTTP_11, "http://a.example/", &[("host", "A.example")]));
        assert!(!checked(Version::HTTP_11, "http://a.example/", &[("host", "b.example")]));
        assert!(!checked(Version::HTTP_11, "http://u@a.example/", &[("host", "a.example")]));
        assert!(!checked(Version::HTTP_2, "https://u@a.example/", &[]));
        assert!(!checked(Version::HTTP_11, "http://a.example/", &[]), "a target is no Host");
        for authority in ["http://a'b,c;d/", "http://x'+alert(1)+',y;z/"] {
            let host = &authority["http://".len()..authority.len() - 1];
            assert!(!checked(Version::HTTP_2, authority, &[]), "{authority}");
            assert!(!checked(Version::HTTP_10, authority, &[]), "{authority}");
            assert!(!checked(Version::HTTP_11, authority, &[("host", host)]), "{authority}");
        }
        assert!(!checked(Version::HTTP_11, "ftp://a.example/", &[("host", "a.example")]));
        assert!(!checked(Version::HTTP_2, "ws://a.example/", &[]));
    }

    #[test]
    fn the_framing_sent_is_that_of_the_body_and_not_what_the_client_wrote() {
        let framed = |method, body: Body| {
            let mut request = Request::builder().method(method).uri("http://evil/a?b").version(Version::HTTP_2);
            request = request.header("content-length", "5").header("transfer-encoding", "chunked").header("host", "a");
            let mut request = request.body(body).unwrap();
            reframe(&mut request);
            assert_eq!((request.uri(), request.version()), (&Uri::from_static("/a?b"), Version::HTTP_11));
            let mut headers = request.into_parts().0.headers;
            assert_eq!(headers.remove("host").unwrap(), "a");
            headers
        };
        assert_eq!(framed(Method::GET, Body::Empty), head(&[]));
        assert_eq!(framed(Method::POST, Body::Empty), head(&[("content-length", "0")]));
        assert_eq!(framed(Method::GET, Body::from("abc")), head(&[("content-length", "3")]));
    }

    #[test]
    fn a_request_is_the_same_in_either_protocol_and_back() {
        let lines = [("host", "a.example:1"), ("te", "trailers"), ("connection", "te"), ("x-user-id", "u")];
        let mut request = Request::builder().method("POST").uri("/p?q").body(Body::Empty).unwrap();
        *request.headers_mut() = head(&lines);
        reframe_http2(&mut request, Scheme::HTTPS).unwrap();
        assert_eq!(request.uri(), "https://a.example:1/p?q");
        let over = [("te", "trailers"), ("x-user-id", "u"), ("content-length", "0")];
        assert_eq!((request.headers(), request.version()), (&head(&over), Version::HTTP_2));
        reframe(&mut request);
        assert_eq!(request.uri(), "/p?q");
        assert_eq!(*request.headers(), head(&[&lines[..], &over[2..]].concat()));
        let mut nowhere = Request::builder().uri("/").body(Body::Empty).unwrap();
        assert!(reframe_http2(&mut nowhere, Scheme::HTTP).is_none());
    }
}
