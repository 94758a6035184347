//! The hot path without a network: what the gateway spends on a request beside moving its bytes.
//!
//! Each stage by itself, then whole decisions on one gateway in this process (`world`). Criterion gives each case its
//! own figure. After that all of them are run again in turns, many short rounds, and the medians are printed: on a
//! machine that others use too, only figures that were taken side by side can be set in relation.
//!
//! `cargo bench --bench hot_path`; how often a decision allocates tells `cargo bench --bench allocations`.

mod world;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use http::HeaderValue;
use tollgate::config::router::{Find, Router};
use tollgate::config::snapshot::Hosts;
use tollgate::contract::encode::{self, Values};
use tollgate::contract::operation::Operation;
use tollgate::contract::pattern::Pattern;
use tollgate::contract::slot::Slot;
use tollgate::credential::generate::{KeyKind, generate};
use tollgate::credential::presented::Presented;
use tollgate::credential::{Authenticator, CacheSettings, KeySettings, Settings, SiteCredentials, jwt};
use tollgate::edge::authorize::authorize;
use tollgate::edge::{authenticate, intake, route};
use tollgate::limit::{Charge, Subject, Verdict};
use tollgate::model::entropy::SystemEntropy;
use tollgate::model::principal::Method;
use tollgate::model::problem::Problem;
use tollgate::model::window::Window;
use tollgate::rules::path;

use world::{World, at_once, head};

/// As in the binary: what is measured allocates as the gateway does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(8);

/// Something to measure: the time that so many turns take.
struct Case<'w> {
    name: String,
    run: Box<dyn FnMut(u64) -> Duration + 'w>,
    wanted: bool,
}

/// What is set in relation: a case, and the one it is measured against.
const RATIOS: &[(&str, &str)] = &[
    ("authenticate/HS256 anew", "authenticate/HS256 remembered"),
    ("authenticate/RS256 anew", "authenticate/RS256 remembered"),
    ("authenticate/ES256 anew", "authenticate/ES256 remembered"),
    ("authenticate/API key anew", "authenticate/API key remembered"),
    ("route/100 routes", "route/10 routes"),
    ("route/1000 routes", "route/10 routes"),
    ("route/10000 routes", "route/10 routes"),
    ("decide/API key", "decide/HS256"),
];

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn instant() -> Instant {
    Instant::now()
}

/// A case that does the same again and again.
fn case<'w, T>(name: impl Into<String>, mut work: impl FnMut() -> T + 'w) -> Case<'w> {
    let run = move |turns| {
        let began = instant();
        for _ in 0..turns {
            black_box(work());
        }
        began.elapsed()
    };
    Case { name: name.into(), run: Box::new(run), wanted: false }
}

fn stages(world: &World) -> Vec<Case<'_>> {
    let contract = Arc::clone(&world.gateway.live().sites[0].site.contract);
    let mut hosts = Hosts::default();
    (0..1000).for_each(|at| assert_eq!(hosts.insert(&format!("api-{at}.example.com"), at), None));
    let mut cases = vec![
        case("site/1000 hosts", move || hosts.find(black_box("API-500.example.com:8443"))),
        case("path/canonical", || path::canonical(black_box("/api/v1/posts/8f14e45f")).is_ok()),
        case("path/escaped", || path::canonical(black_box("/api/v1/%70osts/caf%c3%a9")).is_ok()),
    ];
    cases.extend([10, 100, 1000, 10_000].map(routes));
    cases.push(authorization(world));
    let windows = [60, 86_400].map(|secs| Window { limit: u32::MAX, length: Duration::from_secs(secs), shadow: false });
    let subject = Subject::address("bench", "all", Ipv4Addr::LOCALHOST.into());
    cases.push(case("limit/two windows", move || {
        let charges = [Charge { subject, windows: black_box(&windows), cost: 1 }];
        let verdict = at_once(world.gateway.limiter.admit(&charges, world.gateway.clock.now()));
        assert!(matches!(verdict, Ok(Verdict::Admitted(_))));
    }));
    let own = Arc::clone(&contract);
    cases.push(case("answer/constant problem", move || {
        encode::problem(&own, black_box(&Problem::InsufficientPermissions))
    }));
    let values = Values::new()
        .set(Slot::UserId, "user_0193d0f0c3a17d0f8a5be3a4ce1d2f60")
        .set(Slot::UserEmail, "ada@example.com")
        .set(Slot::UserName, "Ada Lovelace")
        .set(Slot::OrgId, "org_0193d0f0c3a17d0f8a5be3a4ce1d2f61")
        .set(Slot::AccessToken, world.token.as_str())
        .set(Slot::ExpiresIn, 3600);
    cases.push(case("answer/sign-in", move || {
        let served = contract.operations.iter().find(|served| served.operation == Operation::Login);
        encode::answer(served.expect("it signs in"), black_box(&values))
    }));
    cases
}

/// A lookup among `count` routes with two parameters each.
fn routes(count: usize) -> Case<'static> {
    let pattern = |at| Pattern::parse(&format!("GET /api/v1/things{at}/{{id}}/parts/{{part}}")).expect("a pattern");
    let rules: Vec<_> = (0..count).map(|at| (pattern(at), at)).collect();
    let router = Router::build(&rules).expect("no two are alike");
    let path = format!("/api/v1/things{}/8f14e45f/parts/7", count / 2);
    case(format!("route/{count} routes"), move || {
        assert!(matches!(router.find(&http::Method::GET, black_box(&path)), Find::Hit { .. }));
    })
}

/// `authorize` takes its target: some are made ready, and only judging them is timed.
fn authorization(world: &World) -> Case<'_> {
    let mut head = head(&world.token);
    let run = move |turns: u64| {
        let mut exchange = world.begin();
        intake::take(&mut exchange, &mut head).expect("a sound request");
        let target = route::find(&mut exchange).expect("a route");
        at_once(authenticate::authenticate(&mut exchange, &head.headers, &target)).expect("a good token");
        let (mut took, mut left) = (Duration::ZERO, turns);
        while left > 0 {
            let count = left.min(256);
            let targets: Vec<_> = (0..count).map(|_| route::find(&mut exchange).expect("a route")).collect();
            let began = instant();
            for target in targets {
                black_box(authorize(black_box(&exchange), target)).expect("it may");
            }
            took += began.elapsed();
            left -= count;
        }
        took
    };
    Case { name: "authorize/role and guard".to_owned(), run: Box::new(run), wanted: false }
}

/// A site that signs with one algorithm, and a token of the world's session that it signed.
fn signed(world: &World, kind: KeyKind) -> (SiteCredentials, String) {
    let (gateway, live) = (&world.gateway, Arc::clone(&world.gateway.live().sites[0]));
    let (contract, now) = (&live.site.contract, gateway.clock.now());
    let key = KeySettings {
        kid: "1".to_owned(),
        algorithm: kind.algorithm().to_owned(),
        material: generate(kind, &SystemEntropy).expect("a key"),
        signs: true,
    };
    let settings = Settings { keys: vec![key], ..Settings::clone(&live.site.credential) };
    let site = SiteCredentials::new(Arc::new(settings)).expect("a good key");
    let text = world.token.trim_start_matches("Bearer ");
    let presented = Presented::of("Bearer", text, contract).expect("a token");
    let digest = live.credentials.digest(&presented);
    let caller = gateway.authenticator.at_once(&live.credentials, contract, &presented, &digest, now);
    let caller = caller.expect("the world is signed in");
    let Method::Token { session, .. } = caller.method else { panic!("a token is a token") };
    let session = at_once(gateway.authenticator.session(site.realm(), session, now.steady));
    let session = session.expect("it is remembered").expect("there is one");
    let issued = gateway.authenticator.issue_token(&site, contract, &caller.account, &session.record, now.wall);
    let token = world.runtime.block_on(issued).expect("a token").text.expose().to_owned();
    (site, token)
}

/// An authenticator like the gateway's that remembers facts, and no verified credential.
fn forgetful(world: &World) -> Authenticator {
    let gateway = &world.gateway;
    let max_stale = Duration::from_hours(24);
    let settings = CacheSettings { tokens: 0, facts: 1000, max_stale, password_workers: 1, password_queue: 0 };
    let (store, epochs) = (gateway.store.clone(), Arc::clone(&gateway.epochs));
    Authenticator::new(&settings, store, epochs, Arc::clone(&gateway.entropy), Arc::clone(&gateway.metrics))
}

/// The same credentials verified anew at each request, and remembered.
fn credentials(world: &World) -> Vec<Case<'_>> {
    let live = Arc::clone(&world.gateway.live().sites[0]);
    let mut cases = Vec::new();
    for (name, kind) in [("HS256", KeyKind::Hmac), ("RS256", KeyKind::Rsa2048), ("ES256", KeyKind::Es256)] {
        let (site, token) = signed(world, kind);
        let (site, clock) = (Arc::new(site), &world.gateway.clock);
        let (own, text, live) = (Arc::clone(&site), token.clone(), Arc::clone(&live));
        cases.push(case(format!("signature/{name}"), move || {
            jwt::verify(&own, &live.site.contract.ids, black_box(&text), clock.now().wall).expect("a good token")
        }));
        cases.extend(authentication(world, name, &format!("Bearer {token}"), &site));
    }
    let site = SiteCredentials::new(Arc::clone(&live.site.credential)).expect("good keys");
    cases.extend(authentication(world, "API key", &world.key, &Arc::new(site)));
    cases
}

/// From the header's text to the caller.
fn authentication<'w>(world: &'w World, name: &str, header: &str, site: &Arc<SiteCredentials>) -> [Case<'w>; 2] {
    [("anew", Some(forgetful(world))), ("remembered", None)].map(|(how, own)| {
        let contract = Arc::clone(&world.gateway.live().sites[0].site.contract);
        let (header, site, gateway) = (HeaderValue::from_str(header).expect("text"), Arc::clone(site), &world.gateway);
        let mut loaded = false;
        case(format!("authenticate/{name} {how}"), move || {
            let presented = Presented::read([black_box(&header)], &contract).expect("sound").expect("there");
            let authenticator = own.as_ref().unwrap_or(&gateway.authenticator);
            let (digest, now) = (site.digest(&presented), gateway.clock.now());
            if let Some(caller) = authenticator.at_once(&site, &contract, &presented, &digest, now) {
                return caller;
            }
            let (asked, nobody) = ((&presented, digest), std::future::ready(Ok(())));
            let asked = authenticator.authenticate(&site, &contract, asked, now, nobody);
            let caller = if loaded { at_once(asked) } else { world.runtime.block_on(asked) };
            loaded = true;
            caller.expect("a good credential")
        })
    })
}

fn decisions(world: &World) -> Vec<Case<'_>> {
    let decide = |name: &str, credential: &str| {
        let mut head = head(credential);
        case(name, move || at_once(world.decision(black_box(&mut head))).expect("it may pass"))
    };
    vec![decide("decide/HS256", &world.token), decide("decide/API key", &world.key)]
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds for a person to read")]
fn in_turns(cases: &mut [Case<'_>]) -> Vec<(String, f64)> {
    let mut wanted: Vec<_> = cases.iter_mut().filter(|case| case.wanted).collect();
    let turns: Vec<u64> = wanted
        .iter_mut()
        .map(|case| (ROUND.as_nanos() / ((case.run)(100).as_nanos() / 100).max(1)).clamp(1, 10_000_000) as u64)
        .collect();
    let mut samples = vec![Vec::new(); wanted.len()];
    for _ in 0..ROUNDS {
        for ((case, turns), samples) in wanted.iter_mut().zip(&turns).zip(&mut samples) {
            samples.push((case.run)(*turns).as_secs_f64() * 1e9 / *turns as f64);
        }
    }
    let median = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples[ROUNDS / 2]
    };
    wanted.iter().zip(samples).map(|(case, samples)| (case.name.clone(), median(samples))).collect()
}

fn main() {
    let world = World::new();
    let mut cases: Vec<_> = stages(&world).into_iter().chain(credentials(&world)).chain(decisions(&world)).collect();
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for Case { name, run, wanted } in &mut cases {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|turns| {
                *wanted = true;
                run(turns)
            });
        });
    }
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }

    let figures = in_turns(&mut cases);
    println!("\n{:<40}{:>10}", "in turns, one thread", "ns");
    for (name, nanos) in &figures {
        println!("{name:<40}{nanos:>10.0}");
    }
    println!("\n{:<40}{:<40}{:>8}", "", "costs, times", "");
    for (name, against) in RATIOS {
        let of = |wanted: &str| figures.iter().find_map(|(name, nanos)| (name == wanted).then_some(*nanos));
        if let (Some(one), Some(other)) = (of(name), of(against)) {
            println!("{name:<40}{against:<40}{:>8.2}", one / other);
        }
    }
}
