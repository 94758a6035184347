//! What the products' pages promise beside the requests that they show: each found by reading a page as a client would.

use serde_json::{Value, json};

use super::client::Answer;
use super::harness::{Gate, Setup};

const PASSWORD: &str = "Secure_passw0rd";

/// A product's public door, and the shape that all its refusals have.
struct Door {
    product: &'static str,
    register: &'static str,
    login: &'static str,
    /// What the product names the sign-in name.
    name: &'static str,
    forms: bool,
    refusal: fn(&str, &str) -> Value,
}

const DOORS: [Door; 5] = [
    Door {
        product: "vantage",
        register: "/api/v1/auth/register",
        login: "/api/v1/auth/login",
        name: "email",
        forms: false,
        refusal: |code, text| json!({ "detail": text, "error": code }),
    },
    Door {
        product: "rag-modulo",
        register: "/api/auth/register",
        login: "/api/auth/login",
        name: "username",
        forms: false,
        refusal: |_, text| json!({ "detail": text }),
    },
    Door {
        product: "stackaudit",
        register: "/v1/auth/signup",
        login: "/v1/auth/login",
        name: "email",
        forms: false,
        refusal: |code, text| {
            let code = if code == "invalid_request" { "VALIDATION_ERROR".to_owned() } else { code.to_uppercase() };
            json!({ "error": { "code": code, "message": text } })
        },
    },
    Door {
        product: "chatops",
        register: "/api/v1/auth/register",
        login: "/api/v1/auth/login",
        name: "username",
        forms: true,
        refusal: |_, text| json!({ "detail": text }),
    },
    Door {
        product: "langgraph",
        register: "/v1/auth/register",
        login: "/v1/auth/login",
        name: "email",
        forms: false,
        refusal: |code, text| match code {
            "invalid_request" => {
                json!({ "error": { "code": code, "message": "Invalid request parameters", "details": Value::Null } })
            }
            _ => json!({ "error": { "code": code, "message": text } }),
        },
    },
];

impl Door {
    async fn open(&self) -> Gate {
        let setup = Setup::default().product(self.product);
        let setup = setup.site("[site.limits]\nnative_per_address = []\nfailed_sign_ins = []\n");
        setup.start().await.expect("SQLite is always there")
    }

    /// A refusal in the product's own words. `details` differ with what is wrong: they are there.
    fn is_told(&self, what: &str, answer: &Answer, status: u16, code: &str, text: &str) {
        let told = format!("{} {what}: {} {}", self.product, answer.status, answer.text());
        assert_eq!(answer.status.as_u16(), status, "{told}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{told}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{told}");
        let mut met = answer.json();
        if let Some(details) = met.pointer_mut("/error/details") {
            assert!(details.as_object().is_some_and(|details| !details.is_empty()), "{told}");
            *details = Value::Null;
        }
        assert_eq!(met, (self.refusal)(code, text), "{told}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_the_products_own_words() {
    for door in &DOORS {
        let gate = door.open().await;
        let name = door.name;
        let send = async |content_type: Option<&str>, body: &[u8]| {
            let ask = gate.client.ask("POST", door.login).body(body.to_vec());
            match content_type {
                Some(content_type) => ask.header("content-type", content_type).send().await,
                None => ask.send().await,
            }
        };
        let json = Some("application/json");
        let both = format!("Invalid request: {name} is required; password is required");
        let none = |what: &str| format!("Invalid request: {what}");
        let bodies: Vec<(Vec<u8>, String)> = vec![
            (b"".to_vec(), both.clone()),
            (b"{}".to_vec(), both.clone()),
            (format!(r#"{{"{name}":null,"password":null}}"#).into(), both),
            (b"[]".to_vec(), none("the body must be a JSON object")),
            (b"null".to_vec(), none("the body must be a JSON object")),
            (b"{".to_vec(), none("the body is not JSON: line 1, column 1")),
            (b"\xff".to_vec(), none("the body is not JSON: line 1, column 1")),
            (
                format!(r#"{{"{name}":1,"password":true}}"#).into(),
                none(&format!("{name} must be a string; password must be a string")),
            ),
            (
                format!(r#"{{"{name}":"a","{name}":"b","password":"c"}}"#).into(),
                none(&format!("{name} stands more than once")),
            ),
            (
                format!(r#"{{"{name}":"","password":""}}"#).into(),
                none(&format!("{name} must not be empty; password must not be empty")),
            ),
            (
                format!(r#"{{"{name}":"a","password":"{}"}}"#, "x".repeat(1025)).into(),
                none("password must be at most 1024 bytes"),
            ),
        ];
        for (body, text) in &bodies {
            let shown = String::from_utf8_lossy(body).chars().take(60).collect::<String>();
            door.is_told(&shown, &send(json, body).await, 400, "invalid_request", text);
        }
        let good = format!(r#"{{"{name}":"nobody","password":"secret","more":[1]}}"#);
        for content_type in ["text/plain", "multipart/form-data; boundary=x", "application/xml"] {
            let answer = send(Some(content_type), good.as_bytes()).await;
            door.is_told(content_type, &answer, 415, "unsupported_media_type", "Unsupported media type");
        }
        // What is more than is asked for is ignored, and a body that does not say what it is is read as what it must be.
        for content_type in [json, Some("Application/JSON; charset=utf-8"), Some("application/vnd.x+json"), None] {
            let answer = send(content_type, good.as_bytes()).await;
            assert_eq!(answer.status, 401, "{} {content_type:?}: {}", door.product, answer.text());
            assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=")));
        }
        let form = Some("application/x-www-form-urlencoded");
        let answer = send(form, format!("{name}=nobody&password=secret").as_bytes()).await;
        if door.forms {
            assert_eq!(answer.status, 401, "{}", answer.text());
            let twice = send(form, format!("{name}=a&{name}=b&password=c").as_bytes()).await;
            door.is_told("twice", &twice, 400, "invalid_request", &none(&format!("{name} stands more than once")));
        } else {
            door.is_told("a form", &answer, 415, "unsupported_media_type", "Unsupported media type");
        }
        let big = send(json, &vec![b' '; 70 * 1024]).await;
        door.is_told("a long body", &big, 413, "payload_too_large", "Payload too large");
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = gate.client.ask(method, door.login).send().await;
            door.is_told(method, &answer, 405, "method_not_allowed", "Method not allowed");
            assert_eq!(answer.header("allow"), Some("POST"));
        }
        let lost = if door.product == "langgraph" { "Resource not found" } else { "Not found" };
        for path in [format!("{}/", door.login), format!("{}/x", door.login), door.login.to_uppercase()] {
            door.is_told(&path, &gate.client.ask("POST", &path).send().await, 404, "not_found", lost);
        }
        assert_eq!(gate.backend.count(), 0, "{}", door.product);
    }
}

#[tokio::test]
async fn a_credential_beside_a_request_that_needs_none_does_no_harm() {
    for door in &DOORS {
        let setup = Setup::default().product(door.product);
        let gate = setup.site("[site.limits]\nfailed_credentials = [\"1/1h\"]\n").start().await.expect("SQLite");
        let long = format!("Bearer {}", "x".repeat(9000));
        let credentials = [
            "Bearer your-api-key",
            "Bearer your-jwt-token",
            "Bearer your-oauth-token",
            "Bearer a.b.c",
            "Bearer",
            "Basic dXNlcjpwYXNz",
            "ApiKey x",
            "",
            &long,
        ];
        for (at, credential) in credentials.into_iter().enumerate() {
            let mut account = json!({ "email": format!("a{at}@example.com"), "password": PASSWORD, "name": "A" });
            account["username"] = json!(format!("a{at}"));
            account["password_confirm"] = json!(PASSWORD);
            for (path, status) in [(door.register, 201), (door.login, 200)] {
                let answer = gate.client.post(path, &account).header("authorization", credential).send().await;
                assert_eq!(answer.status, status, "{} {path} {credential:.40}: {}", door.product, answer.text());
            }
        }
        // Nor is it counted as a guess: the first that is one is refused as such.
        let guess = gate.client.get("/v1/things").header("authorization", "Bearer your-api-key").send().await;
        assert_eq!(guess.status, 401, "{}", door.product);
        assert!(guess.header("www-authenticate").is_some_and(|value| value.contains("error=\"invalid_token\"")));
        let again = gate.client.get("/v1/things").header("authorization", "Bearer your-api-key").send().await;
        assert_eq!(again.status, 429, "{}", door.product);
    }
}

#[tokio::test]
async fn changing_the_chatops_password_ends_every_refresh_token_and_spares_the_access_token_that_asked() {
    let gate = Setup::default().product("chatops").start().await.expect("SQLite is always there");
    let client = &gate.client;
    let account = json!({
        "email": "ann@example.com", "username": "ann", "password": PASSWORD, "password_confirm": PASSWORD,
    });
    let first = client.post("/api/v1/auth/register", &account).send().await;
    let second = client.post("/api/v1/auth/login", &account).send().await;
    let refresh = async |answer: &Answer| {
        let body = json!({ "refresh_token": answer.string("/refresh_token") });
        client.post("/api/v1/auth/refresh", &body).send().await.status.as_u16()
    };
    assert_eq!((refresh(&first).await, refresh(&second).await), (200, 200));
    let change = async |current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new });
        let ask = client.post("/api/v1/auth/password/change", &body).bearer(&second.string("/access_token"));
        ask.send().await.status.as_u16()
    };
    assert_eq!(change("wrong", "another password").await, 401);
    assert_eq!((refresh(&first).await, refresh(&second).await), (200, 200), "what is refused ends nothing");
    assert_eq!(change(PASSWORD, "another password").await, 200);
    assert_eq!((refresh(&first).await, refresh(&second).await), (401, 401));
    let ask = async |answer: &Answer| {
        client.get("/api/v1/servers").bearer(&answer.string("/access_token")).send().await.status.as_u16()
    };
    assert_eq!((ask(&first).await, ask(&second).await), (401, 200));
    let third = json!({ "username": "ann", "password": "another password" });
    assert_eq!(refresh(&client.post("/api/v1/auth/login", &third).send().await).await, 200);
}

struct Session {
    access: String,
    refresh: String,
}

#[tokio::test]
async fn langgraph_signs_out_by_the_refresh_token_that_the_page_shows() {
    let gate = Setup::default().product("langgraph").start().await.expect("SQLite is always there");
    let client = &gate.client;
    let account = |who: &str| json!({ "email": format!("{who}@example.com"), "password": PASSWORD, "name": "A" });
    for who in ["ann", "eve"] {
        assert_eq!(client.post("/v1/auth/register", &account(who)).send().await.status, 201);
    }
    let sign_in = async |who: &str| {
        let answer = client.post("/v1/auth/login", &account(who)).send().await;
        Session { access: answer.string("/access_token"), refresh: answer.string("/refresh_token") }
    };
    let logout = async |bearer: Option<&str>, refresh: Value| {
        let ask = client.post("/v1/auth/logout", &json!({ "refresh_token": refresh }));
        match bearer {
            Some(bearer) => ask.bearer(bearer).send().await,
            None => ask.send().await,
        }
    };
    let lives = async |session: &Session| {
        let status = client.get("/v1/auth/profile").bearer(&session.access).send().await.status.as_u16();
        let refresh = json!({ "refresh_token": session.refresh });
        (status == 200, client.post("/v1/auth/refresh", &refresh).send().await.status == 200)
    };
    let (over, goes_on) = ((false, false), (true, true));

    // As the page shows it, and as a client does whose access token has run out: by the refresh token alone.
    let ann = sign_in("ann").await;
    let answer = logout(None, json!(ann.refresh)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, r#"{"message":"Logged out successfully"}"#));
    assert_eq!(lives(&ann).await, over);
    assert_eq!(logout(None, json!(ann.refresh)).await.status, 401, "it is over");

    // By the access token, with or without a body; by both, and what each of them stands for ends.
    let (one, two) = (sign_in("ann").await, sign_in("ann").await);
    assert_eq!(client.ask("POST", "/v1/auth/logout").bearer(&one.access).send().await.status, 200);
    assert_eq!((lives(&one).await, lives(&two).await), (over, goes_on));
    let (one, two) = (sign_in("ann").await, sign_in("ann").await);
    assert_eq!(logout(Some(&one.access), json!(two.refresh)).await.status, 200);
    assert_eq!((lives(&one).await, lives(&two).await), (over, over));

    // An SDK's key is nobody's session: beside a refresh token it does no harm, and alone it ends nothing.
    let ann = sign_in("ann").await;
    let made = client.post("/v1/auth/api-keys", &json!({ "name": "sdk" })).bearer(&ann.access).send().await;
    let key = made.string("/key");
    assert_eq!(client.ask("POST", "/v1/auth/logout").bearer(&key).send().await.status, 403);
    assert_eq!(logout(Some(&key), json!("rt_made-up")).await.status, 401);
    assert_eq!(logout(Some(&key), json!(ann.refresh)).await.status, 200);
    assert_eq!(lives(&ann).await, over);

    // Nobody signs another out, nor with what is no refresh token.
    let (ann, eve) = (sign_in("ann").await, sign_in("eve").await);
    assert_eq!(logout(Some(&key), json!(eve.refresh)).await.status, 401, "a key of another's");
    for nothing in [Value::Null, json!(""), json!("x"), json!(ann.access), json!(key), json!("rt_")] {
        let answer = logout(None, nothing.clone()).await;
        assert_eq!(answer.status, 401, "{nothing}: {}", answer.text());
        assert_eq!(answer.text(), r#"{"error":{"code":"unauthorized","message":"Authentication required"}}"#);
    }
    for wrong in ["a.b.c", "your-jwt-token"] {
        assert_eq!(logout(Some(wrong), json!(ann.refresh)).await.status, 401, "a credential that is shown counts");
    }
    assert_eq!(logout(None, json!(7)).await.status, 400);
    assert_eq!(logout(Some(&eve.access), json!(ann.refresh)).await.status, 200, "eve is signed out");
    assert_eq!((lives(&ann).await, lives(&eve).await), (goes_on, over), "and ann is not");
}
