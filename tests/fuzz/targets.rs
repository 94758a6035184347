//! What a stranger's bytes meet first, each as a function of those bytes and the claims that hold whatever they are.
//!
//! `main.rs` plays them a corpus and bounded mutations of it in every run of the tests; the binaries in `guided/` play
//! them what libFuzzer finds by coverage, for as long as one likes (`scripts/fuzz`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tokio::io::AsyncReadExt;
use tollgate::config::router::Find;
use tollgate::config::{self, Inputs, Site};
use tollgate::contract::compile::{self, BUILTIN, builtin};
use tollgate::contract::source::{Located, Source};
use tollgate::contract::{Carried, Contract, decode};
use tollgate::credential::presented::{self, Presented};
use tollgate::credential::{SiteCredentials, api_key, jwt};
use tollgate::edge::first_frame::{self, First};
use tollgate::edge::proxied::{self, Behalf, Look};
use tollgate::model::entropy::TestEntropy;
use tollgate::model::time::Timestamp;
use tollgate::rules::trace::Context;
use tollgate::rules::{forwarded, network, path, trace};
use tollgate::upstream::frames::Frames;
use tollgate::upstream::framing;
use tollgate::upstream::hygiene::{self, Came, Reserved};

/// A target: it panics where a claim does not hold.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const ALL: &[(&str, Target)] = &[
    ("path", path),
    ("route", route),
    ("forwarded", forwarded),
    ("forwarded_elements", forwarded_elements),
    ("proxy_header", proxy_header),
    ("head", head),
    ("trace", trace),
    ("credential", credential),
    ("body", body),
    ("first_message", first_message),
    ("frames", frames),
    ("contract", contract),
    ("configuration", configuration),
];

/// A path has one canonical spelling, which says the same and nothing that two backends could read differently.
pub fn path(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(canonical) = path::canonical(text) else { return };
    assert_eq!(path::canonical(&canonical).as_deref(), Ok(&*canonical), "canonical is canonical");
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    assert_eq!(decoded(text), decoded(&canonical), "it means what it meant");
    assert!(canonical.starts_with('/') && canonical.is_ascii());
    let plain = decoded(&canonical);
    let plain = str::from_utf8(&plain).expect("a canonical path is UTF-8");
    assert_eq!(plain.matches('/').count(), canonical.matches('/').count(), "no slash is hidden");
    assert!(!plain.contains("//") && !plain.contains(['\\', ';', '\0', '\r', '\n']), "{plain:?}");
    assert!(plain.split('/').all(|segment| segment != "." && segment != ".."), "{plain:?}");
}

/// Nothing below a native prefix finds a route, and what finds one is what was asked for.
pub fn route(bytes: &[u8]) {
    let site = &*SITE.0;
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(canonical) = path::canonical(text) else { return };
    for method in [Method::GET, Method::POST, Method::DELETE] {
        if let Find::Hit { index, params } = site.route_paths.find(&method, &canonical) {
            assert!(index < site.routes.len());
            assert!(params.iter().all(|(_, value)| canonical.contains(value)));
        }
        if let Find::Hit { index, .. } = site.native.find(&method, &canonical) {
            assert!(index < site.contract.operations.len());
            assert!(site.is_native(&canonical), "an operation stands below a native prefix: {canonical}");
        }
    }
    let folded = canonical.to_ascii_lowercase();
    for prefix in ["/api/v1/auth", "/api/v1/api-keys"] {
        if folded.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            assert!(site.is_native(&canonical), "{canonical} is the gateway's own");
        }
    }
}

/// A client's address is its peer's, unless trusted hops name another; then it stands in what they wrote.
pub fn forwarded(bytes: &[u8]) {
    let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let stranger = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let told = network::client_address(stranger, lines.iter().copied(), &trusted);
    assert_eq!(told, stranger, "a stranger is not believed");
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let told = network::client_address(proxy, lines.iter().copied(), &trusted);
    assert_eq!(told, told.to_canonical());
    let whole = lines.join(&b',');
    let anew = network::client_address(proxy, std::iter::once(&*whole), &trusted);
    assert_eq!(told, anew, "one line or several are the same");
    // Whatever is put in front changes nothing once a hop is a stranger's.
    if !network::trusts(&trusted, told) {
        let longer = [b"198.51.100.1, ".as_slice(), &whole].concat();
        assert_eq!(network::client_address(proxy, std::iter::once(&*longer), &trusted), told);
    }
}

/// The same of `Forwarded` (RFC 7239), which has quotes to hide commas in: what a client writes on the left swallows
/// nothing of what a proxy appends on the right.
pub fn forwarded_elements(bytes: &[u8]) {
    let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let stranger = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let nothing = forwarded::said(stranger, std::iter::empty(), &trusted);
    assert_eq!((nothing.client, nothing.proto, nothing.host), (stranger, None, None));
    assert_eq!(forwarded::said(stranger, lines.iter().copied(), &trusted), nothing, "a stranger is not believed");

    let proxy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let said = forwarded::said(proxy, lines.iter().copied(), &trusted);
    assert_eq!(said.client, said.client.to_canonical());
    for value in [said.proto, said.host].into_iter().flatten() {
        assert!(
            lines.iter().any(|line| line.windows(value.len().max(1)).any(|part| part == value) || value.is_empty())
        );
        assert_eq!(value, value.trim_ascii());
    }
    // Whatever stands in front changes nothing once a hop is a stranger's: another line, and an open quote in its own.
    if !network::trusts(&trusted, said.client) {
        let front = [b"for=198.51.100.1;host=evil".as_slice(), b"for=\"", b"\\", b"host=\"a, for=198.51.100.1"];
        for front in front {
            let longer = std::iter::once(front).chain(lines.iter().copied());
            assert_eq!(forwarded::said(proxy, longer, &trusted), said, "a line in front");
            let joined = [front, b",", lines[0]].concat();
            let longer = std::iter::once(&*joined).chain(lines[1..].iter().copied());
            assert_eq!(forwarded::said(proxy, longer, &trusted), said, "an element in front");
        }
    }
    // What a trusted proxy appends is what it says, whatever came before it.
    let appended = b"for=198.51.100.9;proto=https;host=own.example";
    for joint in [&b", "[..], b","] {
        let whole = [bytes, joint, appended].concat();
        let said = forwarded::said(proxy, std::iter::once(&*whole), &trusted);
        let own = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), Some(&b"https"[..]), Some(&b"own.example"[..]));
        assert_eq!((said.client, said.proto, said.host), own, "an appended element stands for itself");
    }
}

/// A header of the PROXY protocol ends where it ends, however its bytes come in; not one behind it is taken; and the
/// address that it names stands in it.
pub fn proxy_header(bytes: &[u8]) {
    let whole = taken(bytes, usize::MAX);
    assert_eq!(whole, taken(bytes, 1), "it is the same in pieces");
    let Some((header, client)) = whole else { return };
    let behind = [header, b"\r\nPROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\n"].concat();
    assert_eq!(taken(&behind, usize::MAX), whole, "what follows is the client's own");
    let Some(client) = client else { return };
    if let Some(line) = header.strip_prefix(b"PROXY ") {
        let line = str::from_utf8(line).expect("a line is text");
        let parts: Vec<&str> = line.strip_suffix("\r\n").expect("its end").split(' ').collect();
        assert_eq!(parts[1].parse(), Ok(client.ip()), "{line}");
        assert_eq!(parts[3].parse(), Ok(client.port()), "{line}");
    } else {
        let ip = |at: usize| -> Option<IpAddr> {
            match header[13] >> 4 {
                1 => header.get(at..at + 4)?.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into()),
                _ => header.get(at..at + 16)?.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into()),
            }
        };
        let port = if client.is_ipv4() { 24 } else { 48 };
        assert_eq!(ip(16), Some(client.ip()));
        assert_eq!(header[port..port + 2], client.port().to_be_bytes());
    }
}

/// What is taken of these bytes, and the client that it names; `None` where they are no header or not all of one. Of a
/// line at most `piece` bytes are there at a time.
fn taken(bytes: &[u8], piece: usize) -> Option<(&[u8], Option<SocketAddr>)> {
    let mut header = 0;
    loop {
        let rest = &bytes[header..];
        header += match proxied::look(&bytes[..header]).ok()? {
            Look::Whole(Behalf::Of(client)) => return Some((&bytes[..header], Some(client))),
            Look::Whole(Behalf::Own | Behalf::Somebody) => return Some((&bytes[..header], None)),
            Look::Bytes(more) => rest.get(..more)?.len(),
            Look::Line(most) => {
                let there = rest.get(..most.min(piece)).unwrap_or(rest);
                let end = there.iter().position(|byte| *byte == b'\n').map_or(there.len(), |end| end + 1);
                Some(end).filter(|end| *end > 0)?
            }
        };
        assert!(header <= 16 + 4096, "it is bounded");
    }
}

/// What is read of a `traceparent` means the same to everybody who reads what we write; a `tracestate` goes on within its
/// bounds, and whoever gets it lets it pass unchanged.
pub fn trace(bytes: &[u8]) {
    let (parent, states) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    if let Some(context) = Context::parse(parent) {
        let header = context.header();
        assert_eq!(Context::parse(&header), Some(context));
        let ids = &header[3..52];
        assert!(parent.windows(ids.len()).any(|window| window == ids), "no id is made up");
        assert!(header.starts_with(b"00-") && header.iter().all(|byte| b"0123456789abcdef-".contains(byte)));
    }
    let lines = states.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let Some(state) = trace::state(lines.clone()) else { return };
    assert!(state.len() <= 512 && state.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')));
    assert!(HeaderValue::from_bytes(&state).is_ok());
    assert_eq!(trace::state(std::iter::once(&*state)).as_deref(), Some(&*state), "nobody changes it again");
    for member in state.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let said = |line: &[u8]| line.split(|byte| *byte == b',').any(|own| own.trim_ascii() == member);
        assert!(lines.clone().any(said), "no member is made up");
    }
}

/// A head that passes holds no header of the gateway's and none that frames or routes, once it is ready for a backend.
pub fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(uri) = lines.next().and_then(|line| str::from_utf8(line).ok()?.parse::<http::Uri>().ok()) else { return };
    let Ok(mut request) = Request::builder().uri(uri).version(Version::HTTP_11).body(()) else { return };
    for line in lines.take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    let (mut parts, ()) = request.into_parts();
    if framing::check(&parts).is_err() {
        return;
    }
    let names: Vec<HeaderName> = SITE.0.identity.all().iter().map(|(_, name)| (*name).clone()).collect();
    Reserved::new(&names).strip(&mut parts.headers);
    let came = Came {
        asked: None,
        from: HeaderValue::from_static("203.0.113.7"),
        scheme: HeaderValue::from_static("https"),
        host: HeaderValue::from_static("api.example.com"),
    };
    hygiene::forward(&mut parts.headers, &came);
    clean(&parts.headers, &names);
}

fn clean(headers: &HeaderMap, names: &[HeaderName]) {
    let folded = |name: &str| name.replace('_', "-").to_ascii_lowercase();
    for name in headers.keys() {
        assert!(names.iter().all(|own| folded(own.as_str()) != folded(name.as_str())), "{name} is the gateway's");
    }
    for gone in ["keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "proxy-authorization", "forwarded"] {
        assert!(!headers.contains_key(gone), "{gone} is for one hop");
    }
    for once in ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
        assert_eq!(headers.get_all(once).iter().count(), 1, "{once} is the gateway's word");
    }
}

/// Nobody makes up a token or a key.
pub fn credential(bytes: &[u8]) {
    let (site, credentials) = (&SITE.0, &SITE.1);
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    for contract in CONTRACTS.iter() {
        let Ok(Some(presented)) = Presented::read([&value], contract) else { continue };
        assert!(bytes.len() <= presented::MAX_BYTES && bytes.ends_with(presented.text.as_bytes()));
        assert!(contract.schemes.iter().any(|scheme| scheme.carries.contains(&presented.kind)));
    }
    let Ok(Some(presented)) = Presented::read([&value], &site.contract) else { return };
    let _ = credentials.digest(&presented);
    match presented.kind {
        Carried::Token => {
            let now = Timestamp::from_secs(1_800_000_000);
            let verified = jwt::verify(credentials, &site.contract.ids, presented.text, now);
            assert!(verified.is_err(), "nothing in the corpus is signed by the key");
        }
        Carried::ApiKey => {
            let shaped = api_key::is_shaped("vantage_", presented.text);
            assert!(!shaped || presented.text.len() == "vantage_".len() + 39);
        }
    }
}

/// A body is read into the fields it has, or told why not, for every operation of every product.
pub fn body(bytes: &[u8]) {
    for contract in CONTRACTS.iter() {
        for served in &contract.operations {
            for content_type in [None, Some("application/json"), Some("application/x-www-form-urlencoded")] {
                let _ = decode::decode(served, content_type, bytes, std::iter::empty());
            }
        }
    }
}

/// A first message holds a key, or is told why not.
pub fn first_message(bytes: &[u8]) {
    for agents in CONTRACTS.iter().filter_map(|contract| contract.agents.as_ref()) {
        if agents.key(bytes).is_ok() {
            let text = str::from_utf8(bytes).expect("JSON is UTF-8");
            assert!(text.contains(&agents.type_value) || text.contains('\\'), "{text}");
            assert!(bytes.len() <= agents.max_message);
        }
    }
}

/// However a client's bytes are cut, its frames end in the same places; its first message is within bounds, and what
/// stands behind it is left whole.
pub fn frames(bytes: &[u8]) {
    const MOST: usize = 512;
    let (mut whole, mut cut) = (Frames::default(), Frames::default());
    whole.pass(bytes);
    for byte in bytes {
        assert_eq!(cut.next(&[*byte]), 1);
    }
    let state = |frames: &Frames| (frames.is_between(), frames.is_closing(), frames.is_lost());
    assert_eq!(state(&whole), state(&cut));

    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (came, rest) = runtime.block_on(async {
        let mut socket = first_frame::speak(tokio::io::join(bytes, Vec::new()), MOST).await;
        let came = first_frame::first(&mut socket).await;
        let mut rest = Vec::new();
        socket.into_inner().open().read_to_end(&mut rest).await.expect("bytes in memory");
        (came, rest)
    });
    assert!(bytes.ends_with(&rest));
    if let First::Message(text) = came {
        assert!(text.len() <= MOST);
        let mut behind = Frames::default();
        behind.pass(&bytes[..bytes.len() - rest.len()]);
        assert!(behind.is_between(), "it ends with a frame");
    }
}

/// A contract compiles, or every error has its place and its remedy.
pub fn contract(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(errors) = compile::load(&Source::new("contract.toml", &*text)) {
        told(&errors, &text);
    }
}

/// A configuration loads, or every error has its place and its remedy. Nothing is written.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // What names files of this machine (a pipe that never ends among them) is for the tests of `config`.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let env = BTreeMap::new();
    let inputs =
        Inputs { env: &env, flags: &[], entropy: &TestEntropy::new(1), write: false, generation: 1, kept: None };
    if let Err(errors) = config::load_text("fuzz.toml", &text, &inputs) {
        let own: Vec<Located> = errors.into_iter().filter(|error| error.file == "fuzz.toml").collect();
        assert!(own.iter().all(|error| !error.message.is_empty() && !error.remedy.is_empty()));
        told(&own, &text);
    }
}

fn told(errors: &[Located], text: &str) {
    for error in errors {
        assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{error}");
        assert!(error.line <= text.matches('\n').count() + 1, "{error}");
    }
}

/// The built-in contracts, compiled.
static CONTRACTS: LazyLock<Vec<Contract>> = LazyLock::new(|| {
    let text = |name: &&str| builtin(name).expect("a built-in contract");
    let load = |text: &str| compile::load(&Source::new("builtin", text)).expect("a built-in contract compiles");
    BUILTIN.iter().map(text).map(load).collect()
});

/// A site as operators write one, with its keys.
static SITE: LazyLock<(Arc<Site>, SiteCredentials)> = LazyLock::new(|| {
    let env = BTreeMap::new();
    let inputs =
        Inputs { env: &env, flags: &[], entropy: &TestEntropy::new(1), write: false, generation: 1, kept: None };
    let loaded = config::load_text("site.toml", SITE_FILE, &inputs);
    let loaded =
        loaded.unwrap_or_else(|errors| panic!("{}", errors.iter().map(ToString::to_string).collect::<String>()));
    let site = Arc::clone(&loaded.snapshot.sites[0]);
    let credentials = SiteCredentials::new(Arc::clone(&site.credential)).expect("the keys work");
    (site, credentials)
});

const SITE_FILE: &str = r#"
[listen]
http = "127.0.0.1:0"
[store]
url = "sqlite://fuzz.db"
[[site]]
contract = "vantage"
hosts = ["*"]
[site.tokens]
keys = [{ kid = "1", algorithm = "HS256", secret = "c3ViamVjdC10by10ZXN0cy1vbmx5LTAxMjM0NTY3ODk" }]
[site.api_keys]
pepper = "cGVwcGVyLWZvci10ZXN0cy1vbmx5LWFiY2RlZmdoaWo"
[site.upstream.app]
servers = ["http://127.0.0.1:9"]
[[site.route]]
match = "GET /api/v1/reports/{id}"
upstream = "app"
[[site.route]]
match = "GET /public/{*rest}"
upstream = "app"
public = true
[[site.route]]
match = "* /api/v1/{*rest}"
upstream = "app"
"#;
