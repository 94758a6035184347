//! Every ready file works with the environment that it documents, and says what is missing without it.

use std::path::Path;
use std::time::Duration;

use super::tests::{env, messages};
use super::*;
use crate::contract::compile::BUILTIN;
use crate::contract::source::Located;
use crate::mail::Transport;
use crate::model::entropy::TestEntropy;

const ONE: &str = "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA";
const OTHER: &str = "0sAkX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD";

fn check(path: &str, pairs: &[(&str, &str)]) -> Result<Loaded, Vec<Located>> {
    let env = env(pairs);
    let entropy = TestEntropy::new(1);
    load(Path::new(path), &Inputs { env: &env, flags: &[], entropy: &entropy, write: false, generation: 1, kept: None })
}

fn good(path: &str, pairs: &[(&str, &str)]) -> Loaded {
    let loaded = check(path, pairs).unwrap_or_else(|errors| panic!("{}", messages(&errors)));
    assert_eq!(loaded.warnings, [], "{path}");
    loaded
}

fn bad(path: &str, pairs: &[(&str, &str)]) -> String {
    messages(&check(path, pairs).expect_err("this is wrong"))
}

fn key(site: &Site) -> (&str, &str) {
    let key = &site.credential.keys[0];
    (&key.algorithm, key.material.expose())
}

#[test]
fn each_product_has_a_ready_file_for_its_documented_host() {
    for (name, host, routes) in [
        ("vantage", "api.vantageai.com", 1),
        ("rag-modulo", "api.example.com", 1),
        ("stackaudit", "api.stackaudit.ai", 2),
        ("chatops", "chatops.example.com", 1),
        ("langgraph", "langgraph.example.com", 1),
    ] {
        let loaded = good(&format!("config/{name}.toml"), &[("JWT_SECRET_KEY", ONE), ("JWT_SECRET", ONE)]);
        let site = loaded.snapshot.site(host).unwrap();
        assert_eq!(loaded.snapshot.site("localhost:8443").unwrap().index, site.index);
        assert_eq!((site.name.as_str(), &*site.realm, site.contract.name.as_str()), (name, name, name));
        assert_eq!(site.routes.len(), routes, "{name}");
        assert_eq!(site.credential.issuer, format!("https://{host}"));
        assert_eq!(site.mail.is_some(), site.contract.mail.is_some(), "{name}");
    }
    assert_eq!(BUILTIN.len(), 5, "a new product: give it a ready file");
}

#[test]
fn rag_modulo_is_set_by_the_three_variables_of_its_document() {
    let path = "config/rag-modulo.toml";
    let ttl = |loaded: &Loaded| loaded.snapshot.sites[0].contract.tokens.access_ttl;
    let plain = good(path, &[("JWT_SECRET_KEY", ONE)]);
    assert_eq!((key(&plain.snapshot.sites[0]), ttl(&plain)), (("HS256", ONE), Duration::from_hours(1)));

    let long = format!("{ONE}{OTHER}");
    let set = [("JWT_SECRET_KEY", long.as_str()), ("JWT_ALGORITHM", "HS512"), ("JWT_EXPIRATION", "90")];
    let other = good(path, &set);
    assert_eq!((key(&other.snapshot.sites[0]), ttl(&other)), (("HS512", long.as_str()), Duration::from_secs(90)));
    // As a compose file leaves them where nothing is set.
    let empty = good(path, &[("JWT_SECRET_KEY", ONE), ("JWT_ALGORITHM", ""), ("JWT_EXPIRATION", "")]);
    assert_eq!((key(&empty.snapshot.sites[0]), ttl(&empty)), (("HS256", ONE), Duration::from_hours(1)));

    for (name, value, wanted) in [
        ("JWT_ALGORITHM", "HS384", "the secret is too weak: it has 32 bytes and needs 48"),
        ("JWT_ALGORITHM", "none", "`none` is not a signing algorithm"),
        ("JWT_ALGORITHM", "RS256", "this cannot be read as a key for RS256"),
        ("JWT_EXPIRATION", "1h", "site[0].tokens.access_ttl: `1hs` is not a duration"),
        ("JWT_EXPIRATION", "-1", "site[0].tokens.access_ttl: `-1s` is not a duration"),
        ("JWT_EXPIRATION", "0", "`0s` is out of range"),
        ("JWT_EXPIRATION", "31536000", "`31536000s` is out of range"),
    ] {
        let errors = bad(path, &[("JWT_SECRET_KEY", ONE), (name, value)]);
        assert!(errors.contains(wanted) && errors.matches("help:").count() == 1, "{name}={value}: {errors}");
        assert!(!errors.contains(ONE), "{errors}");
    }
}

#[test]
fn without_its_secret_or_with_the_sample_of_its_document_nothing_starts() {
    for (path, name, sample, line) in [
        ("config/rag-modulo.toml", "JWT_SECRET_KEY", "your-secret-key-here", 30),
        ("config/stackaudit.toml", "JWT_SECRET", "your-development-secret-key", 27),
    ] {
        let place = format!("{path}:{line}:");
        let errors = bad(path, &[]);
        let wanted = format!(
            "site[0].tokens.keys[0].secret: the environment variable `{name}` is not set\n    help: set it before the start or in .env, or give a default: ${{{name}:-…}}\n"
        );
        assert!(errors.starts_with(&place) && errors.ends_with(&wanted), "{errors}");
        let errors = bad(path, &[(name, sample)]);
        assert!(errors.starts_with(&place) && errors.contains("it is a sample from a document"), "{errors}");
        assert!(!errors.contains(sample), "{errors}");
        assert!(bad(path, &[(name, "")]).contains("the secret is too weak: it is empty"));
    }
    let errors = bad("config/all-products.toml", &[]);
    assert_eq!(errors.matches("help:").count(), 2, "{errors}");
    assert!(errors.contains("`JWT_SECRET_KEY` is not set") && errors.contains("`JWT_SECRET` is not set"), "{errors}");
}

#[test]
fn five_products_stand_side_by_side_and_share_nothing() {
    let path = "config/all-products.toml";
    let loaded = good(path, &[("JWT_SECRET_KEY", ONE), ("JWT_SECRET", OTHER)]);
    let sites = &loaded.snapshot.sites;
    let names: Vec<_> = sites.iter().map(|site| site.contract.name.as_str()).collect();
    assert_eq!(names, BUILTIN);
    for site in sites {
        let single = good(&format!("config/{}.toml", site.name), &[("JWT_SECRET_KEY", ONE), ("JWT_SECRET", OTHER)]);
        let single = &single.snapshot.sites[0];
        assert_eq!((&site.realm, &site.credential.issuer), (&single.realm, &single.credential.issuer));
        let routes = |site: &Site| site.routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
        assert_eq!(routes(site), routes(single), "accounts made with one file live on with the other");
        assert_eq!(site.hosts, [single.hosts[0].clone(), format!("{}.localhost", site.name)]);
        for host in &site.hosts {
            assert_eq!(loaded.snapshot.site(host).unwrap().index, site.index, "{host}");
        }
        for other in sites.iter().filter(|other| other.index != site.index) {
            assert_ne!(site.realm, other.realm);
            assert_ne!(site.credential.issuer, other.credential.issuer);
            assert_ne!(site.credential.audience, other.credential.audience);
            assert_ne!(site.credential.pepper, other.credential.pepper);
            assert_ne!(key(site), key(other));
            assert_ne!(site.upstreams[0].servers, other.upstreams[0].servers);
        }
    }
    assert!(loaded.snapshot.site("localhost").is_none() && loaded.snapshot.site("example.com").is_none());
    assert!(matches!(&loaded.boot.mail.transport, Transport::Outbox(folder) if folder == Path::new("data/outbox")));

    let errors = bad(path, &[("JWT_SECRET_KEY", ONE), ("JWT_SECRET", ONE)]);
    assert!(errors.contains("its token key `1` is a secret of the site of"), "{errors}");
}

#[test]
fn every_file_that_a_ready_file_makes_is_its_sites_own() {
    let text = std::fs::read_to_string("config/all-products.toml").unwrap();
    let mut files: Vec<_> =
        text.split("_file = \"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(file, _)| file).collect();
    let count = files.len();
    files.sort_unstable();
    files.dedup();
    assert_eq!((files.len(), count), (8, 8), "{files:?}");
}
