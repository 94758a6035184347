//! Loading as a whole: what ships works, bad files say what their `.txt` says.
//!
//! `TOLLGATE_BLESS=1 cargo test --lib config::tests` writes the messages anew; read them before committing.

use std::path::Path;

use super::env::{Env, Override};
use super::*;
use crate::contract::source::Located;
use crate::limit;
use crate::model::entropy::TestEntropy;
use crate::tls;

const SECRET: &str = "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA";

pub(super) fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn check(path: &str, env: &Env) -> Result<Loaded, Vec<Located>> {
    let entropy = TestEntropy::new(1);
    load(Path::new(path), &Inputs { env, flags: &[], entropy: &entropy, write: false, generation: 1, kept: None })
}

pub(super) fn check_text(text: &str, env: &Env) -> Result<Loaded, Vec<Located>> {
    let entropy = TestEntropy::new(1);
    load_text(
        "test.toml",
        text,
        &Inputs { env, flags: &[], entropy: &entropy, write: false, generation: 1, kept: None },
    )
}

pub(super) fn messages(errors: &[Located]) -> String {
    errors.iter().flat_map(|error| [error.to_string(), "\n".into()]).collect()
}

pub(super) fn good(text: &str) -> Loaded {
    check_text(text, &Env::new()).unwrap_or_else(|errors| panic!("{}", messages(&errors)))
}

fn bad(text: &str) -> String {
    messages(&check_text(text, &Env::new()).expect_err("this is wrong"))
}

/// The least that works, with `more` behind it.
pub(super) fn file(more: &str) -> String {
    format!(
        "[listen]\nhttp = '127.0.0.1:8080'\n[[site]]\ncontract = 'vantage'\nhosts = ['a.example']\n\
         [site.tokens]\nkeys = [{{ kid = '1', algorithm = 'HS256', secret = '{SECRET}' }}]\n\
         [site.api_keys]\npepper = 'pepper-{SECRET}'\n[site.upstream.app]\nservers = ['http://127.0.0.1:9000']\n{more}"
    )
}

#[test]
fn what_ships_works_as_it_is() {
    for path in ["config/gateway.toml", "config/vantage.toml"] {
        let loaded = check(path, &Env::new()).unwrap_or_else(|errors| panic!("{}", messages(&errors)));
        assert_eq!(loaded.warnings, [], "{path}");
        let site = loaded.snapshot.site("API.vantageai.com:8443").unwrap();
        assert_eq!((site.name.as_str(), site.routes.len(), site.guards.len()), ("vantage", 1, 2));
        match loaded.boot.tls {
            Some(tls::Settings::Development { names, .. }) => {
                assert_eq!(names, ["127.0.0.1", "::1", "api.vantageai.com", "localhost"]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guard_that_asks_nothing_says_so_by_an_empty_list() {
    let with = |asks: &str| {
        let guard = format!("[[site.guard]]\nmatch = 'GET,HEAD /api/v1/{{resource}}/{{*rest}}'\n{asks}");
        file(&format!("[[site.route]]\nmatch = '* /{{*rest}}'\n{guard}"))
    };
    assert!(bad(&with("")).contains("the guard asks nothing, and would take the place of the contract's"));
    let loaded = good(&with("permissions = []\n"));
    let guards = &loaded.snapshot.sites[0].guards;
    assert!(guards.len() == 2 && guards.iter().any(|guard| guard.requires.permissions.is_empty()), "{guards:?}");
}

#[test]
fn the_commented_defaults_are_the_defaults() {
    let text = std::fs::read_to_string("config/gateway.toml").unwrap();
    let mut examples = false;
    let mut shown = String::new();
    for line in text.lines() {
        let setting = line.strip_prefix("# ").filter(|rest| rest.split(' ').nth(1) == Some("="));
        match setting {
            // `workers` follows the machine; a string with an ellipsis or an example is not a default.
            Some(setting) if !examples && !setting.starts_with("workers") => shown.push_str(setting),
            _ => shown.push_str(line),
        }
        shown.push('\n');
        if setting.is_none() && !line.starts_with("# [") {
            examples = line.contains("Example");
        }
    }
    let (plain, spelt) = (good(&text), good(&shown));
    assert_eq!(plain.boot.differences(&spelt.boot), Vec::<&str>::new());
    let (plain, spelt) = (&plain.snapshot.sites[0], &spelt.snapshot.sites[0]);
    assert_eq!((&plain.limits, &plain.identity, plain.max_body), (&spelt.limits, &spelt.identity, spelt.max_body));
    assert_eq!(plain.upstreams, spelt.upstreams);
    assert_eq!(format!("{:?}", plain.routes), format!("{:?}", spelt.routes));
    assert_eq!(plain.credential.audience, spelt.credential.audience);
    assert!(shown.lines().filter(|line| line.contains('=') && !line.starts_with('#')).count() > 50, "{shown}");
}

#[test]
fn the_production_example_works_with_its_environment_and_only_with_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["api.vantageai.com.pem", "api.vantageai.com.key", "wildcard.vantage-ai.example.pem"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    std::fs::write(folder.path().join("wildcard.vantage-ai.example.key"), "x").unwrap();
    let text = std::fs::read_to_string("config/production.toml").unwrap();
    let text = text.replace("/etc/tollgate", &folder.path().display().to_string());
    let set = env(&[
        ("DB_PASSWORD", "p"),
        ("REDIS_PASSWORD", "p"),
        ("ADMIN_TOKEN", SECRET),
        ("VANTAGE_JWT_SECRET", &SECRET.to_lowercase()),
        ("VANTAGE_PEPPER", &SECRET.to_uppercase()),
    ]);
    let loaded = check_text(&text, &set).unwrap_or_else(|errors| panic!("{}", messages(&errors)));
    assert_eq!(loaded.warnings, []);
    assert!(matches!(loaded.boot.limit.backend, limit::Backend::Redis { .. }));
    assert_eq!(loaded.boot.store.url.expose(), "postgres://tollgate:p@db:5432/tollgate");
    let site = loaded.snapshot.site("eu.vantage-ai.example").unwrap();
    assert_eq!(site.contract.plans[2].limits.len(), 2);

    let errors = check_text(&text, &Env::new()).unwrap_err();
    let missing: Vec<_> = errors.iter().filter(|error| error.message.contains("is not set")).collect();
    assert_eq!((missing.len(), errors.len()), (5, 5), "{}", messages(&errors));
}

#[test]
fn configurations_that_nobody_wrote_work_and_keep_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (data, certs) = (folder.path().join("da ta"), folder.path().join("certs"));
    let place = template::Place { data: &data, certs: &certs, ..template::Place::default() };
    let entropy = TestEntropy::new(3);
    let env = Env::new();
    let inputs = Inputs { env: &env, flags: &[], entropy: &entropy, write: true, generation: 1, kept: None };
    let text = template::for_upstream("http://127.0.0.1:3000", &place);
    let first = load_text("(--upstream)", &text, &inputs).unwrap_or_else(|errors| panic!("{}", messages(&errors)));
    assert_eq!(
        first.snapshot.site("whatever.example").unwrap().upstreams[0].servers[0].to_string(),
        "http://127.0.0.1:3000"
    );
    for name in ["admin", "tokens", "pepper"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(data.join("secrets").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::read_dir(data.join("secrets")).unwrap().count(), 3, "no draft is left behind");
    let second = load_text("(demo)", &template::demo("http://127.0.0.1:3001", &place), &inputs).unwrap();
    assert_eq!(first.boot.admin, second.boot.admin);
    let key = |loaded: &Loaded| loaded.snapshot.sites[0].credential.keys[0].material.clone();
    assert_eq!(key(&first), key(&second));
    assert!(second.snapshot.site("other.example").is_none() && second.snapshot.site("[::1]:8443").is_some());
}

#[test]
fn neither_a_bad_file_nor_a_check_leaves_a_secret_behind() {
    let folder = tempfile::tempdir().unwrap();
    let place = template::Place { data: folder.path(), ..template::Place::default() };
    let text = template::for_upstream("ftp://nowhere", &place);
    let entropy = TestEntropy::new(3);
    let env = Env::new();
    let inputs = Inputs { env: &env, flags: &[], entropy: &entropy, write: true, generation: 1, kept: None };
    assert!(load_text("x", &text, &inputs).is_err());
    let good = template::for_upstream("http://somewhere", &place);
    assert!(load_text("x", &good, &Inputs { write: false, ..inputs }).is_ok());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_upstream_from_the_command_line_stands_for_itself() {
    let hostile = "http://x/\"]\n[log]\nlevel = \"${HOME}";
    let errors = bad(&template::for_upstream(hostile, &template::Place::default()));
    assert!(
        errors.contains("site[0].upstream.app.servers[0]: ") && errors.contains("is not a server's URL"),
        "{errors}"
    );
    assert_eq!(errors.matches("help:").count(), 1, "{errors}");
}

#[test]
fn files_give_way_to_the_environment_and_that_to_flags() {
    let text = file("[log]\nlevel = 'warn'\n");
    let entropy = TestEntropy::new(1);
    let env = env(&[("TOLLGATE__LOG__LEVEL", "debug"), ("TOLLGATE__STORE__MAX_CONNECTIONS", "7")]);
    let flags = [Override::from_flag("--set", "store.max_connections", "9")];
    let mut inputs = Inputs { env: &env, flags: &[], entropy: &entropy, write: false, generation: 1, kept: None };
    let loaded = load_text("x", &text, &inputs).unwrap();
    assert_eq!((loaded.boot.log.level.as_str(), loaded.boot.store.max_connections), ("debug", 7));
    inputs.flags = &flags;
    assert_eq!(load_text("x", &text, &inputs).unwrap().boot.store.max_connections, 9);
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    let env = env(&[
        ("TOLLGATE__LISTEN__HTTP", ":80"),
        ("TOLLGATE__SITE__0__HOSTS", "['a b', 'c.example']"),
        ("TOLLGATE__LISTN__HTTP", "x"),
        ("TOLLGATE__SITE__4__NAME", "x"),
        ("TOLLGATE__STORE__MAX_CONNECTIONS", "many"),
    ]);
    let errors = check_text(&file(""), &env).unwrap_err();
    let text = messages(&errors);
    for wanted in [
        "TOLLGATE__LISTEN__HTTP: listen.http: `:80` is not an address to listen on",
        "TOLLGATE__SITE__0__HOSTS: site[0].hosts: `a b` is not a host name",
        "TOLLGATE__LISTN__HTTP: listn: unknown key `listn`\n    help: did you mean `listen`?",
        "TOLLGATE__SITE__4__NAME: site[4].name: the list has no such element",
        "TOLLGATE__STORE__MAX_CONNECTIONS: store.max_connections: expected a whole number",
    ] {
        assert!(text.contains(wanted), "{wanted}\n---\n{text}");
    }
    assert_eq!(errors.len(), 5, "{text}");
}

#[test]
fn a_site_asks_what_its_contract_asks_unless_it_says_otherwise() {
    use crate::config::router::Find;
    let more = "[[site.route]]\nmatch = '* /{*rest}'\n[[site.guard]]\nmatch = 'GET /api/v1/{kind}/{*rest}'\nroles = ['member']\n";
    let loaded = good(&file(more));
    let site = &loaded.snapshot.sites[0];
    let guard = |method: &str, path: &str| {
        site.guard_paths.iter().find_map(|layer| match layer.find_any_spelling(&method.parse().unwrap(), path) {
            Find::Hit { index, .. } => site.guards.get(index).map(|guard| &guard.requires),
            _ => None,
        })
    };
    let own = guard("GET", "/api/v1/posts/7").unwrap();
    assert_eq!((own.roles.map(|roles| roles.iter().count()), own.permissions.len()), (Some(2), 0));
    assert_eq!(guard("POST", "/api/v1/posts").unwrap().permissions.len(), 1, "the contract's");
    assert_eq!(guard("POST", "/API/v1/Posts/").unwrap().permissions.len(), 1, "in any spelling");
    assert!(guard("POST", "/other").is_none());
    assert!(site.is_native("/API/v1/AUTH/login") && !site.is_native("/api/v1/posts"));
}

#[test]
fn another_spelling_of_a_stricter_route_is_seen() {
    let more =
        "[[site.route]]\nmatch = '* /v1/{*rest}'\n[[site.route]]\nmatch = 'POST /v1/jobs/{id}/run'\nplans = ['pro']\n";
    let loaded = good(&file(more));
    let site = &loaded.snapshot.sites[0];
    let post = http::Method::POST;
    for path in ["/v1/jobs/1/run/", "/v1/jobs/1/RUN", "/v1/JOBS/1/run"] {
        let found = match site.route_paths.find(&post, path) {
            router::Find::Hit { index, .. } => index,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, 0);
        assert!(site.other_spelling(&post, path, found).unwrap().requires.plans.is_some(), "{path}");
    }
    assert!(site.other_spelling(&post, "/v1/jobs/1/run", 1).is_none());
    assert!(site.other_spelling(&post, "/v1/jobs/1/stop", 0).is_none());
    assert!(site.other_spelling(&post, "/v1/Other/", 0).is_none());
}

#[test]
fn a_site_has_its_own_plans_and_lifetimes() {
    let more = "[site.plan.free]\nlimits = ['5/1m']\n[[site.route]]\nmatch = '* /{*rest}'\n";
    let text = file(more).replace("[site.tokens]\n", "[site.tokens]\naccess_ttl = '5m'\nsession_lifetime = '1d'\n");
    let loaded = good(&text);
    let contract = &loaded.snapshot.sites[0].contract;
    assert_eq!(contract.plans[0].limits[0].to_string(), "5/1m");
    assert_eq!(contract.plans[1].limits[0].to_string(), "1000/1h");
    assert_eq!((contract.tokens.access_ttl.as_secs(), contract.tokens.session_lifetime.as_secs()), (300, 86_400));
}

#[test]
fn a_public_listener_without_tls_is_worth_a_word() {
    let text = file("").replace("127.0.0.1:8080", "0.0.0.0:8080");
    assert!(
        messages(&good(&text).warnings)
            .contains("listen.http: passwords, tokens and keys cross this listener in the clear")
    );
    assert_eq!(good(&file("")).warnings, []);
}

#[test]
fn a_change_that_needs_a_restart_is_named() {
    let (one, two) = (
        good(&file("")),
        good(&file("[store]\nurl = 'sqlite://other.db'\n[log]\nformat = 'text'\n[mail]\ntransport = 'outbox'\n")),
    );
    assert_eq!(one.boot.differences(&two.boot), ["[store]", "[log] format or audit_file", "[mail]"]);
    assert_eq!(one.boot.differences(&one.boot), Vec::<&str>::new());
    let traced = |more: &str| good(&file(&format!("[tracing]\nendpoint = 'http://otel:4318'\n{more}\n")));
    let ratio = traced("sample_ratio = 1\ntrust = 'never'");
    assert_eq!(traced("").boot.differences(&ratio.boot), Vec::<&str>::new());
    assert_eq!(traced("").boot.differences(&traced("token = 'x'").boot).len(), 1);
    assert!(!format!("{:?}", traced("token = 'hunter2'\nheaders = { x-key = 'hunter2' }").boot).contains("hunter2"));
    // What a reload applies is none: the log's level and access lines, the operator's token, certificates.
    let three = good(&file(&format!("[log]\nlevel = 'debug'\naccess = false\n[admin]\ntoken = 'operator-{SECRET}'\n")));
    assert_eq!(one.boot.differences(&three.boot), Vec::<&str>::new());
    let admin = |token: &str| {
        let listen = "[listen]\nadmin = '127.0.0.1:9090'\n";
        good(&file(&format!("[admin]\ntoken = '{token}-{SECRET}'\n")).replacen("[listen]\n", listen, 1))
    };
    assert_eq!(admin("one").boot.differences(&admin("two").boot), Vec::<&str>::new());
    assert_eq!(one.boot.differences(&admin("one").boot), ["[listen]"]);
}

#[test]
fn what_must_outlive_a_start_needs_a_pepper() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    let plain = include_str!("../../config/contracts/rag-modulo.toml");
    // Beside SQLite one would be made; a fleet has to be given one.
    let text = file("[store]\nurl = 'postgres://db/tollgate'\n");
    let text = text.replace("'vantage'", &format!("'{}'", path.display()));
    let text = text.lines().filter(|line| !line.contains("pepper")).collect::<Vec<_>>().join("\n");
    std::fs::write(&path, plain).unwrap();
    assert!(!good(&text).snapshot.sites[0].credential.pepper.expose().is_empty(), "drawn, and never asked for");
    let refresh = "[[operation]]\ndo = \"refresh_token\"\non = \"POST /api/auth/refresh\"\n\
                   reads = { refresh_token = \"refresh_token\" }\nanswer.body = { access_token = \"$access_token\" }\n";
    let own = plain.replace("[schemes]", "[tokens.refresh]\nttl = \"7d\"\nrotation = \"none\"\n\n[schemes]");
    let own = own.replace("expires_in = \"$expires_in\"", "refresh_token = \"$refresh_token\"");
    std::fs::write(&path, own.replace("[problem]", &format!("{refresh}\n[problem]"))).unwrap();
    let errors = bad(&text);
    assert!(errors.contains("the contract has refresh tokens, and there is no pepper to hash them under"), "{errors}");
    assert_eq!(errors.matches("help:").count(), 1, "{errors}");
}

#[test]
fn ten_thousand_routes_load() {
    use std::fmt::Write;
    let mut more = String::new();
    for at in 0..10_000 {
        write!(
            more,
            "[[site.route]]\nmatch = 'GET /v1/r{at}/{{id}}'\nplans = ['pro']\npermissions = ['read:{{id}}']\n"
        )
        .unwrap();
    }
    let loaded = good(&file(&more));
    assert_eq!(loaded.snapshot.sites[0].routes.len(), 10_000);
}

#[test]
fn an_unset_variable_is_told_once() {
    let text = file("").replace(&format!("secret = '{SECRET}'"), "secret = '${NOT_SET}'");
    let errors = bad(&text);
    assert_eq!(errors.matches("help:").count(), 1, "{errors}");
}

#[test]
fn every_bad_file_says_what_its_text_says() {
    #[expect(clippy::disallowed_methods, reason = "a switch for whoever runs the tests")]
    let bless = std::env::var("TOLLGATE_BLESS").is_ok();
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir("tests/config").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let told = match check(path.to_str().unwrap(), &Env::new()) {
            Err(errors) => messages(&errors),
            Ok(_) => "no error\n".to_owned(),
        };
        let text = path.with_extension("txt");
        if bless {
            std::fs::write(&text, &told).unwrap();
        }
        let wanted = std::fs::read_to_string(&text).unwrap_or_default();
        if told != wanted || told == "no error\n" {
            wrong.push(format!("{}:\n{told}--- wanted:\n{wanted}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(count >= 30, "{count} bad files");
}
