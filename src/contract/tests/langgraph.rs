//! The page of `langgraph`. It shows types, not values: `"string"` stands for every slot, unless its type is another.

use std::time::Duration;

use serde_json::json;

use super::page::{Page, strings};
use super::{Bits, Carried, FieldError, Problem, ProblemKind, Scheme, Slot, Values};
use crate::contract::{MailRules, RefreshRules, Rotation, SessionRules};
use crate::model::id::IdStyle;

fn page() -> Page {
    Page::of("langgraph")
}

fn reads(on: &str, body: &str, expected: &[(&'static str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(field, value)| (*field, (*value).to_owned())).collect();
    assert_eq!(page().reads(on, "application/json", body), expected, "{on}");
}

#[test]
fn the_pages_paths_are_all_there() {
    let page = page();
    let shown = [
        "POST /v1/auth/register",
        "POST /v1/auth/login",
        "POST /v1/auth/refresh",
        "POST /v1/auth/logout",
        "POST /v1/auth/password/change",
        "POST /v1/auth/password/reset-request",
        "POST /v1/auth/password/reset",
        "POST /v1/auth/email/verify",
        "POST /v1/auth/email/resend-verification",
        "GET /v1/auth/profile",
        "PUT /v1/auth/profile",
        "GET /v1/auth/sessions",
        "DELETE /v1/auth/sessions/{session_id}",
        "DELETE /v1/auth/sessions",
    ];
    assert_eq!(page.places()[..shown.len()], shown);
    assert!(page.places()[shown.len()..].iter().all(|place| place.contains("/v1/auth/api-keys")));
}

#[test]
fn requests_are_read_as_the_page_shows() {
    reads(
        "POST /v1/auth/register",
        r#"{
  "email": "string",
  "password": "string",
  "name": "string",
  "organization": "string",
  "subscription_plan": "string"
}"#,
        &[("email", "string"), ("password", "string"), ("name", "string"), ("org_name", "string"), ("plan", "string")],
    );
    let device = r#"{"device_id":"device123","platform":"web","browser":"chrome"}"#;
    reads(
        "POST /v1/auth/login",
        r#"{
    "email": "user@example.com",
    "password": "secure_password",
    "device_info": {
        "device_id": "device123",
        "platform": "web",
        "browser": "chrome"
    }
}"#,
        &[("identifier", "user@example.com"), ("password", "secure_password"), ("device", device)],
    );
    let refresh = r#"{
  "refresh_token": "string"
}"#;
    reads("POST /v1/auth/refresh", refresh, &[("refresh_token", "string")]);
    reads("POST /v1/auth/logout", refresh, &[("refresh_token", "string")]);
    reads("POST /v1/auth/logout", "", &[]);
    reads(
        "POST /v1/auth/password/change",
        r#"{
  "current_password": "string",
  "new_password": "string"
}"#,
        &[("current_password", "string"), ("new_password", "string")],
    );
    reads("POST /v1/auth/password/reset-request", r#"{ "email": "string" }"#, &[("email", "string")]);
    reads("POST /v1/auth/email/resend-verification", r#"{ "email": "string" }"#, &[("email", "string")]);
    reads("POST /v1/auth/email/verify", r#"{ "token": "string" }"#, &[("token", "string")]);
    reads(
        "POST /v1/auth/password/reset",
        r#"{
  "token": "string",
  "new_password": "string"
}"#,
        &[("new_password", "string"), ("token", "string")],
    );
    reads(
        "PUT /v1/auth/profile",
        r#"{
  "name": "string",
  "organization": "string"
}"#,
        &[("name", "string"), ("org_name", "string")],
    );
}

#[test]
fn a_device_is_any_small_object_and_nothing_else() {
    let login = |device: &str| format!(r#"{{"email": "a@b.c", "password": "p", "device_info": {device}}}"#);
    for good in ["null", "{}", r#"{"a": {"b": [1, null, true]}}"#, &format!(r#"{{"a": "{}"}}"#, "x".repeat(4088))] {
        page().decode("POST /v1/auth/login", "application/json", &login(good)).unwrap();
    }
    let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(4089));
    let text = r#"{"a\u0000": 1}"#;
    for (bad, told) in [
        ("[]", "must be an object"),
        ("\"web\"", "must be an object"),
        ("7", "must be an object"),
        (&long, "is longer than 4096 bytes"),
        (r#"{"a": ["\u0000"]}"#, "must not contain the character U+0000"),
        (text, "must not contain the character U+0000"),
    ] {
        assert_eq!(page().complains("POST /v1/auth/login", &login(bad)), [format!("device_info {told}")], "{bad}");
    }
}

#[test]
fn answers_are_what_the_page_shows() {
    let page = page();
    page.answers(
        "POST /v1/auth/register",
        201,
        &strings(),
        r#"{
  "user_id": "string",
  "email": "string",
  "name": "string",
  "organization": "string",
  "subscription_plan": "string",
  "created_at": "string"
}"#,
    );
    // The page's "string" for the type of a token is the one constant that it does not tell.
    page.answers(
        "POST /v1/auth/login",
        200,
        &strings().set(Slot::ExpiresIn, 3600),
        r#"{
  "access_token": "string",
  "refresh_token": "string",
  "expires_in": 3600,
  "token_type": "bearer",
  "user": {
    "id": "string",
    "email": "string",
    "name": "string",
    "organization": "string",
    "subscription_plan": "string"
  }
}"#,
    );
    page.answers(
        "POST /v1/auth/refresh",
        200,
        &strings().set(Slot::ExpiresIn, 3600),
        r#"{
  "access_token": "string",
  "expires_in": 3600,
  "token_type": "bearer",
  "refresh_token": "string"
}"#,
    );
    let profile = r#"{
  "id": "string",
  "email": "string",
  "name": "string",
  "organization": "string",
  "subscription_plan": "string",
  "email_verified": true,
  "created_at": "string",
  "updated_at": "string"
}"#;
    page.answers("GET /v1/auth/profile", 200, &strings().set(Slot::UserEmailVerified, true), profile);
    page.answers("PUT /v1/auth/profile", 200, &strings().set(Slot::UserEmailVerified, true), profile);
    page.answers(
        "GET /v1/auth/sessions",
        200,
        &Values::new().item(strings().set(Slot::SessionDevice, json!({}))),
        r#"{
  "sessions": [
    {
      "id": "string",
      "device_info": {},
      "ip_address": "string",
      "last_active": "string",
      "created_at": "string"
    }
  ]
}"#,
    );
}

#[test]
fn answers_that_the_page_does_not_show_are_a_message() {
    let page = page();
    for (on, message) in [
        ("POST /v1/auth/logout", "Logged out successfully"),
        ("POST /v1/auth/password/change", "Password changed successfully"),
        ("POST /v1/auth/password/reset-request", "If the address has an account, a mail is on its way"),
        ("POST /v1/auth/password/reset", "Password reset successfully"),
        ("POST /v1/auth/email/verify", "Email verified successfully"),
        (
            "POST /v1/auth/email/resend-verification",
            "If the address has an account that is not verified, a mail is on its way",
        ),
        ("DELETE /v1/auth/sessions/{session_id}", "Session revoked"),
        ("DELETE /v1/auth/sessions", "All other sessions revoked"),
        ("DELETE /v1/auth/api-keys/{key_id}", "API key revoked"),
    ] {
        page.answers(on, 200, &Values::new(), &json!({ "message": message }).to_string());
    }
    let key = strings().set(Slot::KeyExpiresAt, json!(null)).set(Slot::KeyLastUsedAt, json!(null));
    page.answers(
        "POST /v1/auth/api-keys",
        201,
        &key,
        r#"{"id":"string","name":"string","key":"string","created_at":"string","expires_at":null}"#,
    );
    page.answers(
        "GET /v1/auth/api-keys",
        200,
        &Values::new().item(key),
        r#"{"api_keys":[{"id":"string","name":"string","created_at":"string","expires_at":null,"last_used":null}]}"#,
    );
}

#[test]
fn every_refusal_is_one_of_the_pages_five_shapes() {
    let page = page();
    let bad = r#"{
  "error": {
    "code": "invalid_request",
    "message": "Invalid request parameters",
    "details": {}
  }
}"#;
    page.refuses(&Problem::InvalidRequest(vec![]), 400, bad);
    let detailed = |details: &str| bad.replace("{}", details);
    let errors = [
        FieldError::new("password", "must contain a number"),
        FieldError::new("password", "must contain a special character"),
        FieldError::new("subscription_plan", "cannot be chosen"),
    ];
    page.refuses(
        &Problem::InvalidRequest(errors.to_vec()),
        400,
        &detailed(
            r#"{"password": ["must contain a number", "must contain a special character"], "subscription_plan": ["cannot be chosen"]}"#,
        ),
    );
    page.refuses(&Problem::EmailTaken, 400, &detailed(r#"{"email": ["is already registered"]}"#));
    page.refuses(&Problem::AmbiguousPath, 400, &detailed(r#"{"path": ["is ambiguous"]}"#));
    page.refuses(&Problem::MalformedRequest("two Hosts"), 400, &detailed(r#"{"request": ["two Hosts"]}"#));
    let shown = |code: &str, message: &str| {
        format!(
            r#"{{
  "error": {{
    "code": "{code}",
    "message": "{message}"
  }}
}}"#
        )
    };
    let retry_after = Duration::from_secs(1);
    for (refusal, status, code, message) in [
        (Problem::NotAuthenticated, 401, "unauthorized", "Authentication required"),
        (Problem::InvalidToken, 401, "unauthorized", "Authentication required"),
        (Problem::TokenExpired, 401, "unauthorized", "Authentication required"),
        (Problem::InvalidCredentials, 401, "unauthorized", "Authentication required"),
        (Problem::InsufficientPermissions, 403, "forbidden", "Insufficient permissions"),
        (Problem::PlanRequired(Bits::default().with(1)), 403, "forbidden", "Insufficient permissions"),
        (Problem::NotFound, 404, "not_found", "Resource not found"),
        (Problem::RateLimited { retry_after }, 429, "rate_limit_exceeded", "Rate limit exceeded"),
    ] {
        page.refuses(&refusal, status, &shown(code, message));
    }
    // What the page's list of statuses does not hold keeps its shape.
    for kind in ProblemKind::ALL {
        let shape = &page.0.problems[kind];
        let paged = matches!(shape.status, 400 | 401 | 403 | 404 | 429);
        assert!(paged || shape.code == kind.name(), "{}", kind.name());
    }
}

#[test]
fn sessions_tokens_mails_and_plans_are_as_decided() {
    let contract = page().0;
    let days = |days: u64| Duration::from_hours(24 * days);
    assert_eq!(
        contract.tokens.refresh,
        Some(RefreshRules {
            ttl: days(7),
            rotation: Rotation::Rotate,
            grace: Duration::from_secs(10),
            ends_with_password: false
        })
    );
    assert_eq!(contract.sessions, SessionRules { max: Some(5), idle: Some(days(7)) });
    assert_eq!(
        contract.mail,
        Some(MailRules { verify_ttl: days(1), reset_ttl: Duration::from_hours(1), verify_on_register: true })
    );
    let plans: Vec<_> =
        contract.plans.iter().map(|plan| format!("{} {} {}", plan.name, plan.limits[0], plan.self_service)).collect();
    assert_eq!(plans, ["free 100/1m true", "pro 1000/1m false", "enterprise 10000/1m false"]);
    let rules = &contract.password;
    assert!(rules.min_length == 8 && rules.upper && rules.lower && rules.digit && rules.special);
    let bearer = Scheme { name: "Bearer".into(), carries: vec![Carried::Token, Carried::ApiKey] };
    assert_eq!((contract.schemes, contract.ids.user), (vec![bearer], IdStyle::Uuid));
    assert_eq!(contract.keys.unwrap().prefix, "lg_");
}
