//! The page of `chatops`.

use std::time::Duration;

use super::page::{FORM, Page};
use super::{Carried, FieldError, Problem, Scheme, Slot, Values};
use crate::contract::Rotation;
use crate::contract::pattern::is_below;

const LOGIN: &str = "POST /api/v1/auth/login";
const REGISTER: &str = "POST /api/v1/auth/register";

fn page() -> Page {
    Page::of("chatops")
}

fn user() -> Values {
    Values::new()
        .set(Slot::UserId, "uuid")
        .set(Slot::UserEmail, "user@example.com")
        .set(Slot::UserUsername, "username")
        .set(Slot::UserName, "Full Name")
        .set(Slot::AccessToken, "jwt_access_token")
        .set(Slot::RefreshToken, "jwt_refresh_token")
}

fn owned(expected: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    expected.iter().map(|(field, value)| (*field, (*value).to_owned())).collect()
}

#[test]
fn registration_is_read_and_answered_as_the_page_shows() {
    let shown = r#"{
  "email": "user@example.com",
  "username": "username",
  "password": "password123",
  "password_confirm": "password123",
  "full_name": "Full Name"
}"#;
    assert_eq!(
        page().reads(REGISTER, "application/json", shown),
        owned(&[
            ("email", "user@example.com"),
            ("username", "username"),
            ("password", "password123"),
            ("password_confirm", "password123"),
            ("name", "Full Name"),
        ])
    );
    assert_eq!(
        page().complains(REGISTER, r#"{"email": "a@b.c", "password": "password123"}"#),
        ["username is required", "password_confirm is required"]
    );
    page().answers(
        REGISTER,
        201,
        &user(),
        r#"{
  "user": {
    "id": "uuid",
    "email": "user@example.com",
    "username": "username",
    "full_name": "Full Name"
  },
  "access_token": "jwt_access_token",
  "refresh_token": "jwt_refresh_token",
  "token_type": "bearer"
}"#,
    );
}

#[test]
fn sign_in_is_read_from_the_pages_form_and_answered_as_it_shows() {
    let expected = owned(&[("identifier", "username"), ("password", "password123")]);
    let page = page();
    assert_eq!(page.reads(LOGIN, FORM, "username=username&password=password123"), expected);
    // What OAuth libraries add to it is passed over (RFC 6749 section 4.3.2).
    let more = "grant_type=password&username=username&password=password123&scope=&client_id=x";
    assert_eq!(page.reads(LOGIN, &format!("{FORM}; charset=UTF-8"), more), expected);
    let json = r#"{"username": "username", "password": "password123"}"#;
    assert_eq!(page.reads(LOGIN, "application/json", json), expected);
    page.answers(
        LOGIN,
        200,
        &user(),
        r#"{
  "access_token": "jwt_access_token",
  "refresh_token": "jwt_refresh_token",
  "token_type": "bearer"
}"#,
    );
}

#[test]
fn a_forms_password_is_the_one_that_was_typed() {
    for (sent, password) in [
        ("p%2Bq", "p+q"),
        ("p+q", "p q"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("a%26password%3Db", "a&password=b"),
        ("%C3%A9", "é"),
        (" pad ", " pad "),
    ] {
        let body = format!("username=u%40example.com&password={sent}");
        let read = page().reads(LOGIN, FORM, &body);
        assert_eq!(read, owned(&[("identifier", "u@example.com"), ("password", password)]), "{sent}");
    }
}

#[test]
fn what_two_parsers_would_read_differently_is_refused() {
    let page = page();
    let percent = "holds a `%` without two hexadecimal digits: a percent sign itself is written %25";
    for (body, field, message) in [
        ("username=u&password=a&password=b", "password", "stands more than once"),
        ("username=u&password=a&%70assword=b", "password", "stands more than once"),
        ("username=u&username=v&password=a", "username", "stands more than once"),
        ("username=u&password=100%", "password", percent),
        ("username=u&password=%zz", "password", percent),
        ("username=u&password=%ff", "password", "is not UTF-8"),
        ("username=u&password=", "password", "must not be empty"),
        ("username=u&password=a%00", "password", "must not contain the character U+0000"),
        ("password=a", "username", "is required"),
    ] {
        let told = page.decode(LOGIN, FORM, body).unwrap_err();
        assert_eq!(told, Problem::InvalidRequest(vec![FieldError::new(field, message)]), "{body}");
    }
}

#[test]
fn a_form_is_read_where_the_page_sends_one_and_nowhere_else() {
    let page = page();
    let form = "username=u&password=p&email=e&password_confirm=p&refresh_token=r";
    for on in [REGISTER, "POST /api/v1/auth/refresh", "POST /api/v1/auth/password/change"] {
        assert_eq!(page.decode(on, FORM, form).unwrap_err(), Problem::UnsupportedMediaType, "{on}");
    }
    for other in ["multipart/form-data; boundary=x", "text/plain", "application/x-www-form-urlencoded2"] {
        assert_eq!(page.decode(LOGIN, other, form).unwrap_err(), Problem::UnsupportedMediaType, "{other}");
    }
    // The type is believed: a form that is called JSON is bad JSON, and JSON that is called a form has no fields.
    assert_eq!(page.complains(LOGIN, form), [" is not JSON: line 1, column 1"]);
    let json = r#"{"username": "u", "password": "p"}"#;
    assert!(matches!(page.decode(LOGIN, FORM, json), Err(Problem::InvalidRequest(_))));
}

#[test]
fn refresh_is_read_and_answered_as_the_page_shows_and_rotates_nothing() {
    let page = page();
    let shown = r#"{
  "refresh_token": "jwt_refresh_token"
}"#;
    let refresh = "POST /api/v1/auth/refresh";
    assert_eq!(page.reads(refresh, "application/json", shown), owned(&[("refresh_token", "jwt_refresh_token")]));
    page.answers(
        refresh,
        200,
        &user().set(Slot::AccessToken, "new_jwt_access_token"),
        r#"{
  "access_token": "new_jwt_access_token",
  "token_type": "bearer"
}"#,
    );
    let rules = page.0.tokens.refresh.unwrap();
    assert_eq!(
        (rules.rotation, rules.grace, rules.ttl),
        (Rotation::None, Duration::ZERO, Duration::from_hours(7 * 24))
    );
    assert!(rules.ends_with_password);
    assert_eq!(page.0.tokens.access_ttl, Duration::from_mins(30));
}

#[test]
fn an_agents_first_message_holds_its_key() {
    let contract = page().0;
    let agents = contract.agents.as_ref().unwrap();
    assert_eq!(agents.on.to_string(), "GET,HEAD /api/v1/agents/ws");
    let limits = (agents.patience.as_secs(), agents.max_message, agents.close_code);
    assert_eq!(limits, (10, 4096, 1008));
    assert!(agents.is_at("/api/v1/agents/ws"));
    for other in ["/api/v1/agents", "/api/v1/agents/ws/", "/api/v1/agents/WS", "/api/v1/agents/ws/7", "/", ""] {
        assert!(!agents.is_at(other), "{other}");
    }
    let shown = r#"{
  "type": "auth",
  "api_key": "your-api-key-here"
}"#;
    assert_eq!(agents.key(shown.as_bytes()).unwrap().expose(), "your-api-key-here");
    let accepted = agents.accepted(&Values::new().set(Slot::KeyServerId, "server-uuid"));
    assert_eq!(
        String::from_utf8(accepted).unwrap(),
        r#"{"type":"auth_success","server_id":"server-uuid","message":"Connected successfully"}"#
    );
    let refused = |problem: &Problem| String::from_utf8(agents.refused(&contract, problem)).unwrap();
    assert_eq!(refused(&Problem::InvalidToken), r#"{"type":"auth_error","message":"Invalid credential"}"#);
    for (message, told) in [
        (r#"{"type": "auth"}"#, "Invalid request: api_key is required"),
        (r#"{"type": "auth", "api_key": ""}"#, "Invalid request: api_key must not be empty"),
        (r#"{"type": "auth", "api_key": 7}"#, "Invalid request: api_key must be a string"),
        (r#"{"type": "hello", "api_key": "k"}"#, "Invalid request: type must be `auth`"),
        (r#"{"api_key": "k"}"#, "Invalid request: type must be `auth`"),
        (r#"{"type": "auth", "api_key": "a", "api_key": "b"}"#, "Invalid request: api_key stands more than once"),
        (r#""auth""#, "Invalid request: the body must be a JSON object"),
        ("your-api-key-here", "Invalid request: the body is not JSON: line 1, column 1"),
        ("", "Invalid request: the body is not JSON: line 1, column 0"),
    ] {
        let problem = agents.key(message.as_bytes()).unwrap_err();
        assert_eq!(refused(&problem), format!(r#"{{"type":"auth_error","message":"{told}"}}"#), "{message}");
    }
    let fits = |length: usize| format!(r#"{{"type":"auth","api_key":"{}"}}"#, "k".repeat(length - 28));
    assert_eq!(fits(4096).len(), 4096);
    assert!(agents.key(fits(4096).as_bytes()).is_ok());
    assert_eq!(agents.key(fits(4097).as_bytes()).unwrap_err(), Problem::PayloadTooLarge);
}

#[test]
fn keys_belong_to_a_server_and_no_header_carries_them() {
    let page = page();
    let bearer = Scheme { name: "Bearer".into(), carries: vec![Carried::Token] };
    assert_eq!(page.0.schemes, [bearer]);
    let made = Values::new()
        .set(Slot::KeyId, "uuid")
        .set(Slot::KeyName, "agent")
        .set(Slot::KeySecret, "chatops_x")
        .set(Slot::KeyServerId, "server-uuid")
        .set(Slot::KeyCreatedAt, "2025-01-15T10:00:00.000Z");
    let keys = "/api/v1/servers/{server_id}/api-keys";
    page.answers(
        &format!("POST {keys}"),
        201,
        &made,
        r#"{"id":"uuid","name":"agent","key":"chatops_x","server_id":"server-uuid","created_at":"2025-01-15T10:00:00.000Z"}"#,
    );
    page.answers(
        &format!("GET {keys}"),
        200,
        &Values::new().item(made),
        r#"{"api_keys":[{"id":"uuid","name":"agent","server_id":"server-uuid","created_at":"2025-01-15T10:00:00.000Z","last_used_at":null}]}"#,
    );
    page.answers(&format!("DELETE {keys}/{{key_id}}"), 200, &Values::new(), r#"{"message":"API key revoked"}"#);
    let native = |path: &str| page.0.native_prefixes.iter().any(|prefix| is_below(prefix, path));
    assert!(native("/api/v1/servers/7/api-keys") && native("/api/v1/Servers/7/API-keys/8"));
    assert!(!native("/api/v1/servers") && !native("/api/v1/servers/7") && !native("/api/v1/agents/ws"));
}

#[test]
fn refusals_are_a_detail() {
    page().refuses(&Problem::InvalidCredentials, 401, r#"{"detail":"Invalid credentials"}"#);
    page().refuses(&Problem::NotAuthenticated, 401, r#"{"detail":"Authentication required"}"#);
    page().refuses(&Problem::UsernameTaken, 409, r#"{"detail":"Username already registered"}"#);
    let errors = vec![FieldError::new("password_confirm", "must be the same as password")];
    page().refuses(
        &Problem::InvalidRequest(errors),
        400,
        r#"{"detail":"Invalid request: password_confirm must be the same as password"}"#,
    );
}
