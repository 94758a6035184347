//! Paths that a gateway and a backend read differently, as bytes on the wire: what is decided on is what is forwarded, or
//! it is a 400; and what belongs to the gateway is never forwarded at all.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Client;
use super::harness::{Gate, Setup};
use super::recorder::Recorder;

/// The status of one request, its target as it stands here: no library between that could mend it.
async fn status(client: &Client, method: &str, target: &str, fields: &str) -> u16 {
    let mut stream = client.stream(&[b"http/1.1"]).await;
    let request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read_to_end(&mut answer));
    let _ = read.await.expect("an end in time");
    let line = String::from_utf8_lossy(&answer);
    line.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{method} {target}: {line}"))
}

async fn guarded(routes: &str) -> (Gate, Recorder, String) {
    let recorder = Recorder::start().await;
    let routes = routes.replace("{upstream}", "recorder") + &recorder.routes();
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite is always there");
    let token = gate.signed_in("ada@example.com").await;
    (gate, recorder, format!("authorization: Bearer {token}\r\n"))
}

/// Every one of them is `/api/v1/public/../admin` or `/api/v1/admin` to somebody.
const HOSTILE: &[&str] = &[
    "/api/v1/public/../admin",
    "/api/v1/public/..",
    "/api/v1/public/./../admin",
    "/api/v1/public/.",
    "/api/v1/public/%2e%2e/admin",
    "/api/v1/public/%2E%2e/admin",
    "/api/v1/public/.%2E/admin",
    "/api/v1/public/%2e./admin",
    "/api/v1/public/%2e/admin",
    "/api/v1/public/..%2fadmin",
    "/api/v1/public/..%2Fadmin",
    "/api/v1/public/%2e%2e%2fadmin",
    "/api/v1/public%2f..%2fadmin",
    "/api/v1%2fadmin",
    "/api%2Fv1/admin",
    "/api/v1/public/..%5cadmin",
    "/api/v1/public/..\\admin",
    "/api/v1/public\\..\\admin",
    "/api/v1/public%5C..%5Cadmin",
    "/api/v1/public/%252e%252e/admin",
    "/api/v1/public/%252E%252E%252Fadmin",
    "/api/v1/public/%25%32%65%25%32%65/admin",
    "/api/v1/public/%c0%ae%c0%ae/admin",
    "/api/v1/public/%C0%AE%C0%AE%C0%AFadmin",
    "/api/v1/public/..%c0%afadmin",
    "/api/v1/public/..%c1%9cadmin",
    "/api/v1/public/%e0%80%ae%e0%80%ae/admin",
    "/api/v1/public/%f0%80%80%ae/admin",
    "/api/v1/public/%uff0e%uff0e/admin",
    "/api/v1/public/..;/admin",
    "/api/v1/public/..;a=b/admin",
    "/api/v1/public;/../admin",
    "/api/v1/admin;x",
    "/api/v1/admin;.public",
    "/api/v1/admin%3bx",
    "/api/v1//admin",
    "//api/v1/admin",
    "/api//v1/admin",
    "///api/v1/admin",
    "/api/v1/public//../admin",
    "/api/v1/./admin",
    "/api/v1/admin/.",
    "/api/v1/admin%00",
    "/api/v1/admin%00.public",
    "/api/v1/public%00/../admin",
    "/api/v1/admin%0a",
    "/api/v1/admin%0d%0ax-user-id:%20root",
    "/api/v1/admin%09",
    "/api/v1/admin%7f",
    "/api/v1/admin%",
    "/api/v1/admin%2",
    "/api/v1/admin%zz",
    "/api/v1/admin%c2%85",
    "/api/v1/public/%ff/admin",
    "/..",
    "/../api/v1/admin",
    "/%2e%2e/api/v1/admin",
    "/.",
];

#[tokio::test]
async fn a_path_with_two_readings_is_refused_over_either_protocol_and_never_forwarded() {
    let (gate, recorder, auth) =
        guarded("[[site.route]]\nmatch = \"* /api/v1/public/{*rest}\"\npublic = true\nupstream = \"{upstream}\"\n")
            .await;
    for target in HOSTILE {
        for client in [&gate.plain, &gate.client] {
            assert_eq!(status(client, "GET", target, "").await, 400, "{target} without a credential");
            assert_eq!(status(client, "GET", target, &auth).await, 400, "{target}");
        }
        // In absolute form the same.
        assert_eq!(status(&gate.plain, "GET", &format!("http://localhost{target}"), &auth).await, 400, "{target}");
    }
    assert_eq!(recorder.about("").len(), 0);
}

#[tokio::test]
async fn the_nearest_honest_paths_pass_as_they_were_decided_on() {
    let (gate, recorder, auth) =
        guarded("[[site.route]]\nmatch = \"* /api/v1/public/{*rest}\"\npublic = true\nupstream = \"{upstream}\"\n")
            .await;
    for (target, sent) in [
        ("/api/v1/public/...", "/api/v1/public/..."),
        ("/api/v1/public/..admin", "/api/v1/public/..admin"),
        ("/api/v1/public/a..", "/api/v1/public/a.."),
        ("/api/v1/public/.well-known", "/api/v1/public/.well-known"),
        ("/api/v1/public/%61dmin", "/api/v1/public/admin"),
        ("/api/v1/%70ublic/a", "/api/v1/public/a"),
        ("/api/v1/public/a.", "/api/v1/public/a."),
        ("/api/v1/public/", "/api/v1/public/"),
        ("/api/v1/public/100%25", "/api/v1/public/100%25"),
        ("/api/v1/public/caf%c3%a9", "/api/v1/public/caf%C3%A9"),
        ("/api/v1/public/a%3Fb", "/api/v1/public/a%3Fb"),
        ("/api/v1/public/a%23b", "/api/v1/public/a%23b"),
        ("/api/v1/public/a?x=/../admin&y=%2e%2e%2f;z#w", "/api/v1/public/a?x=/../admin&y=%2e%2e%2f;z"),
        // A fragment is for the client; whatever stands behind `#` decides nothing and is not sent.
        ("/api/v1/public/a#/../../admin", "/api/v1/public/a"),
    ] {
        for client in [&gate.plain, &gate.client] {
            let before = recorder.about("").len();
            assert_eq!(status(client, "GET", target, "").await, 200, "{target}");
            let seen = recorder.about("");
            assert_eq!(seen.len(), before + 1, "{target}");
            let line = format!("GET {sent} HTTP/1.1");
            assert_eq!(seen.last().and_then(|record| record.head.lines().next()), Some(&*line), "{target}");
        }
    }
    // What only looks public is asked for a credential, whatever its query or fragment says.
    for target in [
        "/api/v1/admin",
        "/api/v1/admin?x=/api/v1/public/a",
        "/api/v1/admin#/api/v1/public/a",
        "/api/v1/admin?/api/v1/public/../public",
        "/api/v1/PUBLIC/a",
        "/api/v1/publi%63x/a",
        "/api/v1/public.",
        "/api/v1/public%20/a",
        "/api/v1/%C7%BEublic/a",
    ] {
        assert_eq!(status(&gate.client, "GET", target, "").await, 401, "{target}");
        assert_eq!(status(&gate.client, "GET", target, &auth).await, 200, "{target}");
    }
}

#[tokio::test]
async fn nothing_at_or_below_a_native_prefix_is_forwarded_in_any_spelling_by_any_method() {
    // The most open configuration there is.
    let open = "[[site.route]]\nmatch = \"* /{*rest}\"\npublic = true\nupstream = \"{upstream}\"\n";
    let (gate, recorder, auth) = guarded(open).await;
    let spellings = |path: &str| {
        let escaped: String =
            path.bytes().map(|b| if b == b'/' { "/".to_owned() } else { format!("%{b:02x}") }).collect();
        let turned: String =
            path.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
        [
            path.to_owned(),
            path.to_ascii_uppercase(),
            turned,
            format!("{path}/"),
            format!("{}/", path.to_ascii_uppercase()),
            path.replace("/auth", "/%61uth").replace("/api-", "/%61pi-"),
            path.replace("/auth", "/A%55th").replace("/api-", "/%41PI%2d"),
            escaped,
            format!("{path}?x"),
            format!("{path}#x"),
            format!("/{path}"),
            path.replace("/v1", "//v1"),
            path.replace("/v1/", "/v1/x/../"),
            format!("{path};x"),
            format!("{path}%2f"),
            format!("{path}%00"),
            format!("{path}/x/y"),
        ]
    };
    for native in [
        "/api/v1/auth/login",
        "/api/v1/auth/unknown",
        "/api/v1/auth",
        "/api/v1/api-keys",
        "/api/v1/api-keys/x",
        "/.well-known/jwks.json/x",
        // To whoever takes no notice of case beyond ASCII: the Kelvin sign, the long s.
        "/api/v1/api-%E2%84%AAeys",
        "/api/v1/api-%e2%84%aaey%C5%BF/x",
    ] {
        for target in spellings(native) {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get", "TRACE"] {
                let told = status(&gate.plain, method, &target, "").await;
                assert!([400, 401, 404, 405, 415, 429].contains(&told), "{method} {target}: {told}");
                assert_eq!(recorder.about("").len(), 0, "{method} {target} reached the backend");
            }
        }
    }
    // Where the public keys are, nothing else is: they are served by that one spelling.
    for target in
        ["/.well-known/JWKS.json", "/.Well-Known/jwks.json", "/.well-known/jwks.json/", "/.well-known/jwks.jso%6E/"]
    {
        for method in ["GET", "POST"] {
            assert_eq!(status(&gate.plain, method, target, "").await, 404, "{method} {target}");
        }
    }
    assert_eq!(status(&gate.plain, "GET", "/.well-known/jwks.json", "").await, 200);
    assert_eq!(recorder.about("").len(), 0);
    for target in [
        "/api/v1/authors",
        "/api/v1/auth-x",
        "/api/v2/auth/login",
        "/auth/login",
        "/api/v1/api-keysx",
        "/.well-known/jwks",
        "/api/v1/api-%D0%BAeys",
    ] {
        assert_eq!(status(&gate.plain, "GET", target, &auth).await, 200, "{target} is nobody's but the backend's");
    }
}

#[tokio::test]
async fn an_encoded_slash_passes_only_where_a_route_says_so_and_opens_nothing() {
    let (gate, recorder, auth) = guarded(
        "[[site.guard]]\nmatch = \"* /files/secret/{*rest}\"\nplans = [\"pro\"]\n\
         [[site.route]]\nmatch = \"* /files/{name}\"\nencoded_slash = true\nupstream = \"{upstream}\"\n\
         [[site.route]]\nmatch = \"GET /files/{name}/meta\"\nencoded_slash = true\npublic = true\nupstream = \"{upstream}\"\n\
         [[site.route]]\nmatch = \"GET /files/other/place\"\nroles = [\"admin\"]\nupstream = \"{upstream}\"\n\
         [[site.route]]\nmatch = \"* /{*rest}\"\nencoded_slash = true\npublic = true\nupstream = \"{upstream}\"\n",
    )
    .await;
    for (target, sent) in [
        ("/files/a%2fb", "/files/a%2Fb"),
        ("/files/a%2Fb%2fc.txt", "/files/a%2Fb%2Fc.txt"),
        ("/files/a%2Fb/meta", "/files/a%2Fb/meta"),
    ] {
        for client in [&gate.plain, &gate.client] {
            assert_eq!(status(client, "GET", target, &auth).await, 200, "{target}");
            let line = format!("GET {sent} HTTP/1.1");
            assert_eq!(recorder.about("").last().and_then(|record| record.head.lines().next()), Some(&*line));
        }
    }
    let before = recorder.about("").len();
    for (target, told) in [
        // Without a credential; by a guard or another route that speaks of the other reading.
        ("/files/a%2Fb", 401),
        ("/files/secret%2Fx/meta", 401),
        ("/files/other%2Fplace", 401),
        // What belongs to the gateway, in either reading.
        ("/api%2Fv1/auth/login", 400),
        ("/api/v1%2Fauth%2Flogin", 400),
        ("/API%2fv1/Auth/x", 400),
        ("/api/v1/api-keys%2Fx", 400),
        ("/.well-known%2Fjwks.json", 400),
        // A route that says nothing, and what no reading has.
        ("/api/v1/posts%2Fall", 400),
        ("/files/..%2Fx", 400),
        ("/files/%2e%2e%2Fapi", 400),
        ("/files/a%2F%2Fb", 400),
        ("/files/a%252Fb", 400),
        ("/files/a%5Cb", 400),
        ("/files/a%2Fb%00", 400),
    ] {
        assert_eq!(status(&gate.client, "GET", target, "").await, told, "{target}");
    }
    assert_eq!(status(&gate.client, "GET", "/files/secret%2Fx", &auth).await, 403, "the guard, with a credential");
    assert_eq!(recorder.about("").len(), before);
    // Where nothing else takes the other reading, one that is there by another method only is not opened.
    let (gate, recorder, auth) = guarded(
        "[[site.route]]\nmatch = \"GET /files/{name}\"\nencoded_slash = true\nupstream = \"{upstream}\"\n\
         [[site.route]]\nmatch = \"POST /files/posted/only\"\nupstream = \"{upstream}\"\n",
    )
    .await;
    assert_eq!(status(&gate.client, "GET", "/files/posted%2Fonly", &auth).await, 400);
    assert_eq!(recorder.about("").len(), 0);
    assert_eq!(status(&gate.client, "GET", "/files/posted%2Felse", &auth).await, 200);
}

#[tokio::test]
async fn a_guard_and_a_narrower_route_hold_in_every_case_of_every_script() {
    let (gate, recorder, auth) = guarded(
        "[[site.guard]]\nmatch = \"* /shop/risks/{*rest}\"\nplans = [\"pro\"]\n\
         [[site.route]]\nmatch = \"* /shop/sales\"\nplans = [\"pro\"]\nupstream = \"{upstream}\"\n\
         [[site.route]]\nmatch = \"* /shop/{*rest}\"\npublic = true\nupstream = \"{upstream}\"\n",
    )
    .await;
    for target in [
        "/shop/risks/1",
        "/shop/RISKS/1",
        "/shop/ri%C5%BFks/1",
        "/shop/ris%E2%84%AAs/1",
        "/shop/r%C4%B0sks/1",
        "/SHOP/risks/1",
        "/shop/sales",
        "/shop/SALES/",
        "/shop/%C5%BFale%C5%BF",
        "/shop/%c5%bfales/",
    ] {
        let told = [status(&gate.client, "GET", target, "").await, status(&gate.client, "GET", target, &auth).await];
        // `/SHOP` is no route of its own: case is exact where something opens.
        assert_eq!(told, if target.starts_with("/SHOP") { [404; 2] } else { [401, 403] }, "{target}");
    }
    assert_eq!(recorder.about("").len(), 0);
    for target in ["/shop/risk/1", "/shop/ri%D1%95ks/1", "/shop/sale", "/shop/%C3%9Fales", "/shop/%C4%B1%C5%9F%C4%B1k"]
    {
        assert_eq!(status(&gate.client, "GET", target, "").await, 200, "{target} is another path");
    }
}
