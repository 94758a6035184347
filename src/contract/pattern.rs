//! Which requests a line of configuration speaks of: `GET,HEAD /api/v1/{resource}/{*rest}`.

use std::fmt;

use http::Method;

use crate::rules::path::folded;

/// A set of the methods RFC 9110 and RFC 5789 define; `*` is all of them and any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MethodSet(u16);

static METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];
const ANY: u16 = 1 << 15;

impl MethodSet {
    /// Every method, also those without a name here.
    pub const ALL: Self = Self(u16::MAX);

    /// Reads `*` or a comma-separated list; `GET` brings `HEAD` with it (RFC 9110 section 9.3.2).
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::ALL);
        }
        let mut bits = 0;
        for name in text.split(',') {
            bits |= 1 << METHODS.iter().position(|method| method.as_str() == name)?;
        }
        if bits & 1 != 0 {
            bits |= 2;
        }
        Some(Self(bits))
    }

    /// Whether `method` is in the set.
    pub fn has(self, method: &Method) -> bool {
        self.0 & Self::bit(method) != 0
    }

    /// Whether the set was written `*`.
    pub fn is_all(self) -> bool {
        self.0 & ANY != 0
    }

    /// The union.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// No method.
    pub const NONE: Self = Self(0);

    /// Whether a method is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn bit(method: &Method) -> u16 {
        METHODS.iter().position(|known| known == method).map_or(ANY, |at| 1 << at)
    }
}

impl fmt::Display for MethodSet {
    /// As an `Allow` header lists them: `GET, HEAD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = METHODS.iter().filter(|method| self.has(method)).map(Method::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

/// Methods and a path with `{parameters}`; a last `{*rest}` takes any number of segments, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Which methods.
    pub methods: MethodSet,
    /// The path: `/api/v1/{resource}/{*rest}`.
    pub path: String,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Not `METHODS /path`.
    #[error("expected methods, one space and a path, such as `GET /v1/items/{{id}}` or `* /v1/{{*rest}}`")]
    Shape,
    /// A method that is not one.
    #[error("`{0}` is not a method list: use `*` or names such as `GET,POST` (upper case, no spaces)")]
    Methods(String),
    /// A path that cannot be matched.
    #[error(
        "`{0}` is not a path pattern: it starts with `/`, its segments are literal text or one whole `{{name}}`, and `{{*name}}` stands last"
    )]
    Path(String),
    /// Two of its parameters have one name.
    #[error("`{{{name}}}` stands twice in `{path}`: each parameter has a name of its own")]
    Twice {
        /// The name.
        name: String,
        /// The path.
        path: String,
    },
}

impl Pattern {
    /// Reads `METHODS /path`.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let (methods, path) = text.split_once(' ').ok_or(BadPattern::Shape)?;
        let methods = MethodSet::parse(methods).ok_or_else(|| BadPattern::Methods(methods.into()))?;
        if !is_path(path) {
            return Err(BadPattern::Path(path.into()));
        }
        let pattern = Self { methods, path: path.into() };
        let mut seen = Vec::new();
        for name in pattern.parameters() {
            if seen.contains(&name) {
                return Err(BadPattern::Twice { name: name.into(), path: path.into() });
            }
            seen.push(name);
        }
        Ok(pattern)
    }

    /// The names of its parameters, without the `*`.
    pub fn parameters(&self) -> impl Iterator<Item = &str> + Clone {
        self.path.split('/').filter_map(parameter)
    }
}

impl Pattern {
    /// Whether this speaks of fewer paths than `other` where both match: on the first segment in which they differ
    /// in kind, literal text is closer than a `{parameter}`, and that closer than a `{*rest}`.
    pub fn is_closer_than(&self, other: &Self) -> bool {
        let kinds = |pattern: &Self| -> Vec<u8> {
            let kind = |segment: &str| match segment {
                rest if rest.starts_with("{*") => 0,
                name if name.starts_with('{') => 1,
                _ => 2,
            };
            pattern.path.split('/').map(kind).collect()
        };
        kinds(self) > kinds(other)
    }

    /// Whether one request may match both, in any spelling of its path.
    pub fn meets(&self, other: &Self) -> bool {
        fn overlap(one: &[&str], other: &[&str]) -> bool {
            match (one, other) {
                ([rest], _) | (_, [rest]) if rest.starts_with("{*") => true,
                ([] | [""], []) | ([], [""]) => true,
                ([first, one @ ..], [second, other @ ..]) => {
                    let open = |segment: &str, value: &str| segment.starts_with('{') && !value.is_empty();
                    let same = first.eq_ignore_ascii_case(second) || open(first, second) || open(second, first);
                    same && overlap(one, other)
                }
                _ => false,
            }
        }
        let (one, two): (Vec<&str>, Vec<&str>) = (self.path.split('/').collect(), other.path.split('/').collect());
        self.methods.meets(other.methods) && overlap(&one, &two)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.methods.is_all() {
            write!(f, "* {}", self.path)
        } else {
            write!(f, "{} {}", self.methods.to_string().replace(", ", ","), self.path)
        }
    }
}

/// Whether `path` is `prefix` or stands below it, whatever its case; a `{name}` in the prefix is any one segment.
pub fn is_below(prefix: &str, path: &str) -> bool {
    if !prefix.contains('{') {
        // Segment by segment is byte by byte then, up to a slash or the end: no need to part them.
        let (prefix, path) = (prefix.as_bytes(), path.as_bytes());
        return matches!(path.get(prefix.len()), None | Some(b'/'))
            && path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    }
    let mut segments = path.split('/');
    prefix.split('/').all(|wanted| {
        segments.next().is_some_and(|segment| match parameter(wanted) {
            Some(_) => !segment.is_empty(),
            None => {
                segment.eq_ignore_ascii_case(wanted) || (segment.contains('%') && folded(segment) == folded(wanted))
            }
        })
    })
}

fn parameter(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    Some(name.strip_prefix('*').unwrap_or(name))
}

fn is_path(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    if segments.is_empty() {
        return true;
    }
    let count = segments.split('/').count();
    segments.split('/').enumerate().all(|(at, segment)| match parameter(segment) {
        Some(name) => {
            let last = at + 1 == count;
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && (last || !segment.starts_with("{*"))
        }
        // An empty last segment is a trailing slash; what a canonical path cannot hold, a pattern cannot either.
        None => {
            (!segment.is_empty() || at + 1 == count)
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}%\\;?#*".contains(&byte))
        }
    })
}

/// A permission with the path's parameters in it: `read:{resource}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionPattern {
    /// Text and parameters in turn.
    pub parts: Vec<Part>,
}

/// One piece of a [`PermissionPattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// The value of a path parameter.
    Parameter(String),
}

impl PermissionPattern {
    /// Reads `read:{resource}`; every `{name}` must be one of `parameters`. `None` otherwise.
    #[expect(clippy::needless_pass_by_value, reason = "an iterator is handed over, as everywhere")]
    pub fn parse<'a>(text: &str, parameters: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = open + rest[open..].find('}')?;
            let name = &rest[open + 1..close];
            if !parameters.clone().any(|known| known == name) {
                return None;
            }
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            parts.push(Part::Parameter(name.into()));
            rest = &rest[close + 1..];
        }
        if rest.contains('}') || (rest.is_empty() && parts.is_empty()) {
            return None;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Some(Self { parts })
    }

    /// The permission, with `value(name)` for each parameter. A value that is missing or holds a character that
    /// no permission has becomes `?`: a family (`read:*`) still covers it, no exact permission does, and no
    /// path can spell `*` or a second permission.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut filled = String::with_capacity(32);
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Parameter(name) => filled.push_str(value(name).filter(|value| is_plain(value)).unwrap_or("?")),
            }
        }
        filled
    }
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_patterns_meet_where_one_request_may_match_both() {
        let meet = |one: &str, two: &str| {
            let (one, two) = (Pattern::parse(one).unwrap(), Pattern::parse(two).unwrap());
            assert_eq!(one.meets(&two), two.meets(&one));
            one.meets(&two)
        };
        for (one, two) in [
            ("GET /a/{id}", "* /{x}/b"),
            ("* /{*rest}", "POST /"),
            ("* /a/{*rest}", "GET /a"),
            ("GET /a/{id}", "HEAD /A/7/"),
            ("GET /a/{x}/c", "GET /a/b/{*y}"),
            ("GET /open", "GET /OPEN"),
        ] {
            assert!(meet(one, two), "{one} {two}");
        }
        for (one, two) in [
            ("GET /a/{id}", "POST /a/{id}"),
            ("GET /a/{id}", "GET /a/{id}/b"),
            ("GET /a/{id}", "GET /a/"),
            ("* /a/{*rest}", "* /b/{*rest}"),
            ("GET /a/b/c", "GET /a/{x}/d"),
        ] {
            assert!(!meet(one, two), "{one} {two}");
        }
    }

    #[test]
    fn get_brings_head_and_star_brings_everything() {
        let get = MethodSet::parse("GET").unwrap();
        assert!(get.has(&Method::HEAD) && !get.has(&Method::POST));
        assert_eq!(get.to_string(), "GET, HEAD");
        assert!(MethodSet::ALL.has(&Method::from_bytes(b"PURGE").unwrap()));
        assert!(!MethodSet::parse("GET,POST").unwrap().has(&Method::from_bytes(b"PURGE").unwrap()));
        assert_eq!(MethodSet::parse("get"), None);
        assert_eq!(MethodSet::parse(""), None);
    }

    #[test]
    fn patterns_that_a_canonical_path_could_never_match_are_refused() {
        for good in ["GET /", "* /{*rest}", "GET,POST /a/{id}/b", "DELETE /a/", "GET /api.v1/a-b_c"] {
            Pattern::parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "GET",
            "GET x",
            "GET /a//b",
            "GET /a/../b",
            "GET /{*rest}/b",
            "GET /a{id}",
            "GET /{id}/{id}",
            "GET /%61",
            "GET /a;b",
            "FETCH /",
            "GET  /",
            "GET /{}",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn below_a_prefix_is_a_matter_of_whole_segments() {
        let keys = "/api/v1/servers/{server_id}/api-keys";
        for (prefix, path) in [
            ("/v1/auth", "/v1/auth"),
            ("/v1/auth", "/V1/Auth/login"),
            ("/v1/auth", "/v1/auth/"),
            (keys, "/api/v1/servers/7/api-keys"),
            (keys, "/API/v1/servers/7/API-KEYS/1"),
            (keys, "/api/v1/%C5%BFervers/7/api-%E2%84%AAeys"),
            (keys, "/api/v1/servers/{id}/api-keys"),
        ] {
            assert!(is_below(prefix, path), "{prefix} {path}");
        }
        for (prefix, path) in [
            ("/v1/auth", "/v1/authentic"),
            ("/v1/auth", "/v1"),
            ("/v1/auth", "/v2/auth"),
            (keys, "/api/v1/servers/7"),
            (keys, "/api/v1/servers/7/api-keyss"),
            (keys, "/api/v1/servers/7/api-%D0%BAeys"),
            (keys, "/api/v1/servers//api-keys"),
            (keys, "/api/v1/servers/7/8/api-keys"),
            (keys, "/api/v1/servers/api-keys"),
        ] {
            assert!(!is_below(prefix, path), "{prefix} {path}");
        }
    }

    proptest! {
        #[test]
        fn below_is_segment_by_segment_with_parameters_and_without(
            prefix in "(/(a|B|bb|\\{x\\})){1,3}",
            path in "(/(a|A|b|bb|c|)){0,4}",
        ) {
            let wanted: Vec<&str> = prefix.split('/').collect();
            let there: Vec<&str> = path.split('/').collect();
            let fits = |(wanted, there): (&&str, &&str)| match *wanted {
                "{x}" => !there.is_empty(),
                text => text.to_lowercase() == there.to_lowercase(),
            };
            let below = there.len() >= wanted.len() && wanted.iter().zip(&there).all(fits);
            prop_assert_eq!(is_below(&prefix, &path), below);
        }
    }

    #[test]
    fn literal_text_is_closer_than_a_parameter_and_that_than_the_rest() {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        for (closer, wider) in [
            ("GET /pub/secret/{id}", "GET /pub/{*rest}"),
            ("GET /api/v1/health", "* /api/v1/{resource}/{*rest}"),
            ("GET /a/{id}/b", "GET /a/{*rest}"),
            ("GET /a/b/{id}", "GET /a/{x}/{y}"),
        ] {
            assert!(pattern(closer).is_closer_than(&pattern(wider)), "{closer} {wider}");
            assert!(!pattern(wider).is_closer_than(&pattern(closer)), "{wider} {closer}");
            assert!(!pattern(closer).is_closer_than(&pattern(closer)));
        }
    }

    #[test]
    fn a_path_cannot_spell_its_way_to_a_wider_permission() {
        let pattern = PermissionPattern::parse("read:{resource}", ["resource"].into_iter()).unwrap();
        assert_eq!(pattern.fill(|_| Some("posts")), "read:posts");
        for evil in ["*", "", "a:b", "a,b", "%2a"] {
            assert_eq!(pattern.fill(|_| Some(evil)), "read:?", "{evil}");
        }
        assert_eq!(PermissionPattern::parse("read:{other}", ["resource"].into_iter()), None);
    }
}
