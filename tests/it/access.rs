//! Who gets through: credentials, permissions, roles, identity headers.

use super::harness::{Gate, Setup};
use serde_json::json;

#[tokio::test]
async fn the_backend_sees_who_is_asking_and_not_the_credential() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let answer = gate.client.get("/api/v1/posts?page=2").bearer(&token).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = gate.backend.last();
    assert_eq!(seen.path, "/api/v1/posts?page=2");
    assert_eq!(seen.one("x-user-email"), Some("ada@example.com"));
    assert_eq!(seen.one("x-user-role"), Some("admin"));
    assert_eq!(seen.one("x-plan"), Some("free"));
    assert_eq!(seen.one("x-auth-method"), Some("jwt"));
    assert!(seen.one("x-user-id").is_some_and(|id| id.starts_with("user_")));
    assert!(seen.one("x-org-id").is_some_and(|id| id.starts_with("org_")));
    assert!(seen.one("x-session-id").is_some());
    assert_eq!(seen.one("x-request-id"), answer.header("x-request-id"));
    assert_eq!(seen.all("authorization"), Vec::<&str>::new());
}

#[tokio::test]
async fn a_client_cannot_send_identity_headers_in_any_spelling() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let answer = gate
        .client
        .get("/api/v1/posts")
        .bearer(&token)
        .header("X-User-Id", "user_evil")
        .header("x-user-id", "user_evil2")
        .header("x-user-role", "")
        .header("X-Key-Id", "key_evil")
        .header("Connection", "X-User-Id, x-org-id, X-Plan")
        .send()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = gate.backend.last();
    assert!(seen.one("x-user-id").is_some_and(|id| id != "user_evil" && id != "user_evil2"));
    assert!(seen.one("x-org-id").is_some() && seen.one("x-plan").is_some());
    assert_eq!(seen.one("x-user-role"), Some("admin"));
    assert!(seen.all("x-key-id").is_empty());
}

#[tokio::test]
async fn a_header_name_with_an_underscore_is_refused_unless_the_site_drops_them() {
    for (site, status) in
        [("", 400), ("underscore_headers = \"refuse\"\n", 400), ("underscore_headers = \"drop\"\n", 200)]
    {
        let gate = Setup::default().first(site).start().await.expect("SQLite");
        let token = gate.signed_in("ada@example.com").await;
        let ask = || gate.client.get("/api/v1/posts").bearer(&token);
        for name in ["X_User_Role", "x-user_role", "X.User.Role", "x_custom"] {
            for answer in [ask().header(name, "owner").send().await, ask().header(name, "owner").send_http2().await] {
                assert_eq!(answer.status, status, "{site}{name}: {}", answer.text());
                assert!(status == 200 || answer.string("/error") == "malformed_request", "{}", answer.text());
            }
        }
        let forwarded = gate.backend.count();
        assert_eq!(forwarded, if status == 200 { 8 } else { 0 });
        assert_eq!(ask().header("X-User-Role", "owner").header("X-Custom", "1").send().await.status, 200);
        let seen = gate.backend.last();
        assert_eq!((seen.one("x-user-role"), seen.one("x-custom")), (Some("admin"), Some("1")));
        assert!(seen.headers.iter().all(|(name, _)| !name.contains(['_', '.'])), "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn public_routes_pass_without_a_credential_and_strip_identity_too() {
    let routes = "[[site.route]]\nmatch = \"GET /open\"\npublic = true\nupstream = \"app\"\n\
                  [[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let answer = gate.client.get("/open").header("X-User-Id", "user_evil").header("X-Plan", "pro").send().await;
    assert_eq!(answer.status, 200);
    let seen = gate.backend.last();
    assert!(seen.all("x-user-id").is_empty() && seen.all("x-plan").is_empty());
    assert_eq!(gate.client.get("/open").header("X_Plan", "pro").send().await.status, 400);
    assert_eq!(gate.client.get("/other").send().await.status, 404, "no rule, no passage");
    assert_eq!(gate.client.get("/api/v1/posts?x=/open").send().await.status, 401, "a query is no path");
}

#[tokio::test]
async fn two_credentials_are_refused_also_where_none_is_asked() {
    let routes =
        "[[site.route]]\nmatch = \"GET /open\"\npublic = true\nforward_credential = true\nupstream = \"app\"\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    for (method, path) in [("GET", "/open"), ("POST", "/api/v1/auth/login"), ("GET", "/.well-known/jwks.json")] {
        let ask =
            || gate.client.ask(method, path).header("authorization", "Bearer a").header("authorization", "Basic b");
        for answer in [ask().send().await, ask().send_http2().await] {
            assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
        }
    }
    assert_eq!(gate.backend.count(), 0);
    assert_eq!(gate.client.get("/open").header("authorization", "Basic b").send().await.status, 200);
    assert_eq!(gate.backend.last().all("authorization"), ["Basic b"], "one is the backend's own affair");
}

#[tokio::test]
async fn a_key_does_what_it_was_given_and_nothing_beside_it() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    for path in ["/api/v1/posts", "/api/v1/posts/7", "/api/v1/posts/7/comments"] {
        let answer = gate.client.get(path).api_key(&key).send().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(gate.backend.last().one("x-permissions"), Some("read:posts"));
        assert_eq!(gate.backend.last().one("x-auth-method"), Some("api_key"));
        assert_eq!(gate.backend.last().one("x-key-id"), Some(id.as_str()));
    }
    for (method, path) in [
        ("POST", "/api/v1/posts"),
        ("DELETE", "/api/v1/posts/7"),
        ("GET", "/api/v1/users"),
        ("GET", "/api/v1/POSTS2"),
        ("PURGE", "/api/v1/posts"),
    ] {
        let answer = gate.client.ask(method, path).api_key(&key).send().await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        assert_eq!(answer.string("/error"), "insufficient_permissions");
    }
}

#[tokio::test]
async fn a_key_cannot_make_keys_nor_become_a_session() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts", "write:api-keys"]).await;
    let more = json!({ "name": "more", "permissions": ["read:posts"] });
    assert_eq!(gate.client.post("/api/v1/api-keys", &more).api_key(&key).send().await.status, 403);
    assert_eq!(gate.client.ask("DELETE", &format!("/api/v1/api-keys/{id}")).api_key(&key).send().await.status, 403);
    assert_eq!(gate.client.ask("POST", "/api/v1/auth/refresh").api_key(&key).send().await.status, 403);
    // In the wrong scheme a credential is nothing at all.
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&key).send().await.status, 401);
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&token).send().await.status, 401);
}

#[tokio::test]
async fn keys_are_listed_read_rotated_and_revoked() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    let path = format!("/api/v1/api-keys/{id}");
    let read = gate.client.get(&path).bearer(&token).send().await;
    assert_eq!(read.status, 200, "{}", read.text());
    assert!(!read.text().contains(&key), "a key is shown once");
    let listed = gate.client.get("/api/v1/api-keys").bearer(&token).send().await;
    assert!(listed.text().contains(&id) && !listed.text().contains(&key));

    let rotated = gate.client.ask("POST", &format!("{path}/rotate")).bearer(&token).send().await;
    assert!(rotated.status.is_success(), "{}", rotated.text());
    let successor = rotated.string("/key");
    for either in [&key, &successor] {
        assert_eq!(gate.client.get("/api/v1/posts").api_key(either).send().await.status, 200, "the overlap");
    }
    assert_eq!(gate.client.ask("DELETE", &path).bearer(&token).send().await.status.as_u16() / 100, 2);
    let refused = gate.client.get("/api/v1/posts").api_key(&key).send().await;
    assert_eq!(refused.status, 401, "a revoked key is refused from the next request on");
    assert_eq!(refused.string("/error"), "invalid_token");
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&successor).send().await.status, 200);
}

#[tokio::test]
async fn nobody_reads_or_revokes_anothers_key() {
    let gate = Gate::start().await;
    let ada = gate.signed_in("ada@example.com").await;
    let eve = gate.signed_in("eve@example.com").await;
    let (key, id) = gate.api_key(&ada, &["read:posts"]).await;
    let path = format!("/api/v1/api-keys/{id}");
    for (method, path) in [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/rotate"))] {
        assert_eq!(gate.client.ask(method, &path).bearer(&eve).send().await.status, 404, "{method}");
    }
    assert!(!gate.client.get("/api/v1/api-keys").bearer(&eve).send().await.text().contains(&id));
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 200);
}

#[tokio::test]
async fn a_key_with_a_mistake_in_it_is_refused() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let mut swapped = key.clone().into_bytes();
    let last = swapped.len() - 1;
    swapped[last] = if swapped[last] == b'a' { b'b' } else { b'a' };
    let swapped = String::from_utf8(swapped).expect("ASCII");
    for bad in [format!("{key}x"), key[..key.len() - 1].to_owned(), swapped, "vantage_".into(), key.to_uppercase()] {
        assert_eq!(gate.client.get("/api/v1/posts").api_key(&bad).send().await.status, 401, "{bad}");
    }
    let twice = gate.client.get("/api/v1/posts").api_key(&key).api_key(&key).send().await;
    assert_eq!(twice.status, 401, "more than one Authorization header");
}

#[tokio::test]
async fn a_body_cannot_raise_its_own_role_plan_or_organization() {
    let gate = Gate::start().await;
    gate.signed_in("victim@example.com").await;
    let body = json!({
        "email": "eve@example.com", "password": "correct horse battery", "name": "Eve", "role": "owner", "plan": "pro",
        "org_id": "org_1", "id": "user_1", "email_verified": true, "is_admin": true, "permissions": ["*"],
    });
    assert_eq!(gate.client.post("/api/v1/auth/register", &body).send().await.status, 201);
    let told = gate.operate("GET", "/users/eve@example.com", None).await.json();
    assert_eq!((&told["role"], &told["plan"]), (&json!("admin"), &json!("free")));
    assert_eq!(told["email_verified"], json!(false));
    let victim = gate.operate("GET", "/users/victim@example.com", None).await.json();
    assert_ne!(told["org_id"], victim["org_id"]);
}

#[tokio::test]
async fn a_key_is_not_given_what_its_maker_lacks() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let viewer = gate.operate("PATCH", "/users/ada@example.com", Some(json!({ "role": "viewer" }))).await;
    assert_eq!(viewer.status, 200, "{}", viewer.text());
    let wanted = json!({ "name": "x", "permissions": ["write:posts"] });
    assert_eq!(gate.client.post("/api/v1/api-keys", &wanted).bearer(&token).send().await.status, 403);
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 200);
    assert_eq!(gate.client.post("/api/v1/posts", &json!({})).api_key(&key).send().await.status, 403);
}

#[tokio::test]
async fn twenty_registrations_of_one_address_make_one_account() {
    let gate = std::sync::Arc::new(Gate::start().await);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..20 {
        let gate = std::sync::Arc::clone(&gate);
        tasks.spawn(async move {
            let email = if at % 2 == 0 { "Ada@Example.com" } else { "ada@example.COM" };
            let body = json!({ "email": email, "password": "correct horse battery", "name": "Ada" });
            gate.client.post("/api/v1/auth/register", &body).send().await.status.as_u16()
        });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
}

#[tokio::test]
async fn a_backend_can_ask_for_proof_and_check_it_with_the_published_keys() {
    let routes = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\nassertion = true\n";
    let keys = tempfile::tempdir().expect("a temporary folder");
    let file = keys.path().join("proof");
    let gate = Setup::default()
        .routes(routes)
        .more_keys(&format!(
            "{{ kid = \"proof\", algorithm = \"EdDSA\", secret_file = \"{}\", generate = true, signs = false }}",
            file.display()
        ))
        .start()
        .await
        .expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    let seen = gate.backend.last();
    let proof = seen.one("x-identity-assertion").expect("an assertion");

    let set: jsonwebtoken::jwk::JwkSet =
        serde_json::from_slice(&gate.client.get("/.well-known/jwks.json").send().await.body).expect("a key set");
    assert_eq!(set.keys.len(), 1, "the shared secret is not published");
    let key = jsonwebtoken::DecodingKey::from_jwk(set.find("proof").expect("the key")).expect("a public key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["app"]);
    validation.set_issuer(&["test"]);
    let checked = jsonwebtoken::decode::<serde_json::Value>(proof, &key, &validation).expect("a proof that holds");
    assert_eq!(checked.claims["sub"], seen.one("x-user-id").expect("an id"));
    assert_eq!(checked.claims["email"], "ada@example.com");
    assert_eq!(gate.client.get("/api/v1/posts").bearer(proof).send().await.status, 401, "it is no access token");
}

#[tokio::test]
async fn a_backend_that_still_checks_gets_the_credential() {
    let routes = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\nforward_credential = true\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!(gate.backend.last().one("authorization"), Some(format!("Bearer {token}").as_str()));
}
