//! What a stranger's bytes meet first, each as a function of those bytes and the claims that hold whatever they are.
//!
//! `main.rs` plays them a corpus and bounded mutations of it in every run of the tests; the binaries in `guided/` play
//! them what libFuzzer finds by coverage, for as long as one likes (`scripts/fuzz`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
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
use tollgate::model::entropy::TestEntropy;
use tollgate::model::time::Timestamp;
use tollgate::rules::{network, path};
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
    ("head", head),
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
    let inputs = Inputs { env: &env, flags: &[], entropy: &TestEntropy::new(1), write: false, generation: 1 };
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
    let inputs = Inputs { env: &env, flags: &[], entropy: &TestEntropy::new(1), write: false, generation: 1 };
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
