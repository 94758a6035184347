//! The router against its claims, and against a slow matcher that is obviously right.

use proptest::prelude::*;

use super::*;

fn rules(texts: &[&str]) -> Vec<(Pattern, usize)> {
    texts.iter().enumerate().map(|(index, text)| (Pattern::parse(text).unwrap(), index)).collect()
}

fn router(texts: &[&str]) -> Router {
    Router::build(&rules(texts)).unwrap()
}

fn hit(router: &Router, request: &str) -> Option<usize> {
    let (method, path) = request.split_once(' ').unwrap();
    match router.find(&method.parse().unwrap(), path) {
        Find::Hit { index, .. } => Some(index),
        _ => None,
    }
}

fn any_spelling(router: &Router, request: &str) -> Option<usize> {
    let (method, path) = request.split_once(' ').unwrap();
    match router.find_any_spelling(&method.parse().unwrap(), path) {
        Find::Hit { index, .. } => Some(index),
        _ => None,
    }
}

#[test]
fn literal_beats_parameter_beats_rest() {
    let router = router(&["* /v1/{*rest}", "GET /v1/{kind}/{id}", "GET /v1/posts/{id}", "GET /v1/posts/new"]);
    assert_eq!(hit(&router, "GET /v1/posts/new"), Some(3));
    assert_eq!(hit(&router, "GET /v1/posts/7"), Some(2));
    assert_eq!(hit(&router, "GET /v1/users/7"), Some(1));
    assert_eq!(hit(&router, "GET /v1/users/7/mail"), Some(0));
    assert_eq!(hit(&router, "GET /v1/posts/7/mail"), Some(0));
}

#[test]
fn a_dead_end_is_backed_out_of() {
    let router = router(&["GET /a/b/c", "GET /a/{x}/d", "GET /{y}/b/e"]);
    assert_eq!(hit(&router, "GET /a/b/c"), Some(0));
    assert_eq!(hit(&router, "GET /a/b/d"), Some(1));
    assert_eq!(hit(&router, "GET /a/b/e"), Some(2));
    assert_eq!(hit(&router, "GET /a/b/f"), None);
}

#[test]
fn a_path_without_the_method_falls_through_to_one_that_has_it() {
    let router = router(&["POST /v1/audits/{id}/rerun", "* /v1/{*rest}", "GET /w/x", "POST /w/{y}"]);
    assert_eq!(hit(&router, "POST /v1/audits/1/rerun"), Some(0));
    assert_eq!(hit(&router, "GET /v1/audits/1/rerun"), Some(1));
    assert_eq!(hit(&router, "PURGE /v1/audits/1/rerun"), Some(1));
    assert_eq!(hit(&router, "HEAD /w/x"), Some(2));
    assert_eq!(hit(&router, "POST /w/x"), Some(3));
    match router.find(&Method::DELETE, "/w/x") {
        Find::WrongMethod(methods) => assert_eq!(methods.to_string(), "GET, HEAD, POST"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(router.find(&Method::GET, "/nothing"), Find::Miss));
}

#[test]
fn on_one_path_a_named_method_beats_the_star() {
    for order in [["* /a/{*rest}", "GET /a/{*other}"], ["GET /a/{*other}", "* /a/{*rest}"]] {
        let router = router(&order);
        let get = order.iter().position(|text| text.starts_with("GET"));
        assert_eq!(hit(&router, "GET /a/b"), get);
        assert_eq!(hit(&router, "POST /a/b"), get.map(|at| 1 - at));
    }
}

#[test]
fn rest_takes_any_number_of_segments_also_none() {
    let router = router(&["GET /a/{*rest}", "GET /{kind}/x/{*rest}"]);
    for (path, rest) in [("/a", ""), ("/a/", ""), ("/a/b", "b"), ("/a/b/c/", "b/c/")] {
        match router.find(&Method::GET, path) {
            Find::Hit { index: 0, params } => assert_eq!(params.find("rest"), Some(rest), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    match router.find(&Method::GET, "/b/x/y/z") {
        Find::Hit { index: 1, params } => {
            assert_eq!(params.iter().collect::<Vec<_>>(), [("kind", "b"), ("rest", "y/z")]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(hit(&router, "GET /ab"), None);
    assert_eq!(hit(&self::router(&["* /{*rest}"]), "GET /"), Some(0));
    assert_eq!(hit(&self::router(&["* /{*rest}", "GET /"]), "GET /"), Some(1));
}

#[test]
fn case_and_slashes_are_exact() {
    let router = router(&["GET /v1/me", "GET /v1/list/", "GET /v1/user/{id}"]);
    assert_eq!(hit(&router, "GET /v1/me"), Some(0));
    assert_eq!(hit(&router, "GET /v1/list/"), Some(1));
    for other in ["/v1/Me", "/V1/me", "/v1/me/", "/v1/list", "/v1/user/", "/v1/user", "/v1", "/", "/v1/mee", "/v1/m"] {
        assert_eq!(hit(&router, &format!("GET {other}")), None, "{other}");
    }
    assert_eq!(hit(&router, "OPTIONS *"), None);
    assert_eq!(hit(&Router::default(), "GET /"), None);
}

#[test]
fn a_closing_rule_sees_every_spelling_of_its_path() {
    let router = router(&["POST /v1/audits/{id}/rerun", "* /v1/{*rest}", "GET /v1/Docs/"]);
    for path in ["/v1/audits/1/rerun", "/v1/audits/1/RERUN", "/V1/Audits/1/rerun/", "/v1/audits/1/rerun/"] {
        assert_eq!(any_spelling(&router, &format!("POST {path}")), Some(0), "{path}");
    }
    for path in ["/v1/docs", "/v1/docs/", "/v1/Docs", "/v1/Docs/"] {
        assert_eq!(any_spelling(&router, &format!("GET {path}")), Some(2), "{path}");
    }
    for path in ["/v1/audits/1/rerun2", "/v1/audits/1/rerun/x", "/v1/audits/1"] {
        assert_eq!(any_spelling(&router, &format!("POST {path}")), Some(1), "{path}");
    }
    match router.find_any_spelling(&Method::POST, "/v1/AUDITS/AbC/rerun") {
        Find::Hit { params, .. } => assert_eq!(params.find("id"), Some("AbC"), "values keep their case"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_exact_spelling_is_preferred_among_spellings() {
    let router = router(&["GET /docs", "GET /docs/", "GET /Docs"]);
    for (path, index) in [("/docs", 0), ("/docs/", 1), ("/Docs", 2)] {
        assert_eq!(any_spelling(&router, &format!("GET {path}")), Some(index), "{path}");
        assert_eq!(hit(&router, &format!("GET {path}")), Some(index), "{path}");
    }
}

#[test]
fn two_rules_for_one_method_and_path_are_a_conflict_whatever_their_names() {
    let conflict = |texts: &[&str]| Router::build(&rules(texts)).err();
    let pair = |first, second| Some(vec![Conflict { first, second }]);
    assert_eq!(conflict(&["GET /a/{id}", "POST /a/{name}", "GET,PUT /a/{name}"]), pair(0, 2));
    assert_eq!(conflict(&["GET /x", "HEAD /x"]), pair(0, 1), "GET brings HEAD");
    assert_eq!(conflict(&["* /a/{*x}", "GET /a", "* /a/{*y}"]), pair(0, 2));
    assert_eq!(conflict(&["* /a", "GET /a", "GET /a/", "GET /A", "GET /a/{*r}", "GET /{a}"]), None);
}

#[test]
fn an_earlier_list_beats_a_later_one_on_its_path_and_nowhere_else() {
    let (over, under) = (rules(&["* /v1/x"]), rules(&["GET /v1/x", "GET /v1/x/y"]));
    let under: Vec<_> = under.into_iter().map(|(pattern, at)| (pattern, at + 10)).collect();
    let router = Router::layered(&[&over, &under]).unwrap();
    assert_eq!(hit(&router, "GET /v1/x"), Some(0));
    assert_eq!(hit(&router, "GET /v1/x/y"), Some(11));
}

#[test]
fn ten_thousand_routes_are_each_found_and_only_they() {
    let texts: Vec<String> =
        (0..10_000).map(|at| format!("GET /v{}/res{}/{{id}}/leaf{at}", at % 7, at % 101)).collect();
    let all = rules(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let router = Router::build(&all).unwrap();
    for at in 0..10_000_usize {
        let path = format!("/v{}/res{}/some-id/leaf{at}", at % 7, at % 101);
        match router.find(&Method::GET, &path) {
            Find::Hit { index, params } => assert_eq!((index, params.find("id")), (at, Some("some-id"))),
            other => panic!("{path}: {other:?}"),
        }
        let path = format!("/v{}/res{}/some-id/leaf{at}", (at + 1) % 7, at % 101);
        assert!(matches!(router.find(&Method::GET, &path), Find::Miss), "{path}");
    }
}

#[test]
fn native_paths_are_seen_whatever_their_case_and_their_neighbours_are_not() {
    let under = |path| is_under(["/api/v1/auth", "/api/v1/api-keys/"], path);
    for path in ["/api/v1/auth", "/api/v1/auth/", "/API/v1/Auth/login", "/api/v1/api-keys", "/api/v1/API-keys/1"] {
        assert!(under(path), "{path}");
    }
    for path in ["/api/v1/authors", "/api/v1", "/", "/api/v1/aut", "/x/api/v1/auth", "/api/v1/api-keys2"] {
        assert!(!under(path), "{path}");
    }
}

/// How well `pattern` fits, smallest best; `None` when it does not.
fn fit(pattern: &str, path: &str) -> Option<Vec<u8>> {
    let wanted: Vec<&str> = pattern[1..].split('/').collect();
    let given: Vec<&str> = path[1..].split('/').collect();
    let mut ranks = Vec::new();
    for (at, segment) in wanted.iter().enumerate() {
        if segment.starts_with("{*") {
            ranks.push(2);
            return (at <= given.len()).then_some(ranks);
        }
        let actual = given.get(at)?;
        if segment.starts_with('{') && !actual.is_empty() {
            ranks.push(1);
        } else if segment == actual {
            ranks.push(0);
        } else {
            return None;
        }
    }
    (wanted.len() == given.len()).then_some(ranks)
}

fn pattern_text() -> impl Strategy<Value = String> {
    let segment = prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("C"), 3 => Just("{}")];
    let end = prop_oneof![5 => Just(""), 2 => Just("/{*r}"), 1 => Just("/")];
    let method = prop_oneof![Just("*"), Just("GET"), Just("POST"), Just("GET,PUT")];
    (method, prop::collection::vec(segment, 1..4), end).prop_map(|(method, segments, end)| {
        let segments: Vec<String> =
            segments.iter().enumerate().map(|(at, each)| each.replace("{}", &format!("{{p{at}}}"))).collect();
        format!("{method} /{}{end}", segments.join("/"))
    })
}

proptest! {
    #[test]
    fn it_agrees_with_trying_every_rule(
        texts in prop::collection::vec(pattern_text(), 1..30),
        path in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("C"), Just("z")], 1..5),
        slash in any::<bool>(),
        method in prop_oneof![Just("GET"), Just("HEAD"), Just("POST"), Just("PUT"), Just("BREW")],
    ) {
        let path = format!("/{}{}", path.join("/"), if slash { "/" } else { "" });
        let method: Method = method.parse().unwrap();
        // Rules that clash with an earlier one are left out.
        let mut list: Vec<(Pattern, usize)> = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            list.push((Pattern::parse(text).unwrap(), at));
            if Router::build(&list).is_err() {
                list.pop();
            }
        }
        let router = Router::build(&list).unwrap();
        let fits: Vec<_> = list
            .iter()
            .filter_map(|(pattern, at)| Some((fit(&pattern.path, &path)?, pattern.methods.is_all(), pattern, *at)))
            .collect();
        let best = fits
            .iter()
            .filter(|(_, _, pattern, _)| pattern.methods.has(&method))
            .min_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        match (router.find(&method, &path), best) {
            (Find::Hit { index, params }, Some((_, _, pattern, at))) => {
                prop_assert_eq!(index, *at);
                prop_assert!(params.iter().map(|(name, _)| name).eq(pattern.parameters()));
            }
            (Find::WrongMethod(_), None) => prop_assert!(!fits.is_empty()),
            (Find::Miss, None) => prop_assert!(fits.is_empty()),
            (found, best) => prop_assert!(false, "{found:?} against {best:?}"),
        }
    }
}
