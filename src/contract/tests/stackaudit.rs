//! The page of `stackaudit`.

use std::time::Duration;

use super::page::Page;
use super::{Bits, Carried, FieldError, Problem, ProblemKind, Slot, Values};
use crate::contract::operation::Operation;
use crate::contract::pattern::is_below;

fn page() -> Page {
    Page::of("stackaudit")
}

fn user() -> Values {
    Values::new()
        .set(Slot::AccessToken, "eyJhbGciOiJIUzI1NiIs...")
        .set(Slot::UserId, "user_abc123")
        .set(Slot::UserEmail, "user@example.com")
        .set(Slot::UserName, "John Doe")
        .set(Slot::OrgId, "org_xyz789")
        .set(Slot::UserRole, "admin")
        .set(Slot::Plan, "free")
}

fn key() -> Values {
    Values::new()
        .set(Slot::KeyId, "key_abc123")
        .set(Slot::KeyName, "Production API")
        .set(Slot::KeySecret, "sk_live_abc123...")
        .set(Slot::KeyCreatedAt, "2025-01-15T10:00:00.000Z")
}

fn reads(on: &str, body: &str, expected: &[(&'static str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(field, value)| (*field, (*value).to_owned())).collect();
    assert_eq!(page().reads(on, "application/json", body), expected);
}

#[test]
fn requests_are_read_as_the_page_shows() {
    reads(
        "POST /v1/auth/signup",
        r#"{
    "email": "user@example.com",
    "password": "securepassword123",
    "name": "John Doe",
    "organizationName": "Acme Corp"
  }"#,
        &[
            ("email", "user@example.com"),
            ("password", "securepassword123"),
            ("name", "John Doe"),
            ("org_name", "Acme Corp"),
        ],
    );
    reads(
        "POST /v1/auth/login",
        r#"{
    "email": "user@example.com",
    "password": "securepassword123"
  }"#,
        &[("identifier", "user@example.com"), ("password", "securepassword123")],
    );
    reads(
        "POST /v1/auth/change-password",
        r#"{
    "currentPassword": "oldpassword123",
    "newPassword": "newsecurepassword456"
  }"#,
        &[("current_password", "oldpassword123"), ("new_password", "newsecurepassword456")],
    );
    reads("POST /v1/organizations/api-keys", r#"{"name": "Production API"}"#, &[("key_name", "Production API")]);
    reads("POST /v1/auth/refresh", "", &[]);
    reads("POST /v1/auth/logout", "", &[]);
}

#[test]
fn answers_are_what_the_page_shows() {
    let shown = r#"{
  "message": "Account created successfully",
  "token": "eyJhbGciOiJIUzI1NiIs...",
  "user": {
    "id": "user_abc123",
    "email": "user@example.com",
    "name": "John Doe",
    "organizationId": "org_xyz789",
    "role": "admin",
    "plan": "free"
  }
}"#;
    page().answers("POST /v1/auth/signup", 201, &user(), shown);
    let shown = shown.replace("Account created successfully", "Login successful");
    page().answers("POST /v1/auth/login", 200, &user(), &shown);
    page().answers(
        "POST /v1/auth/refresh",
        200,
        &user(),
        r#"{
  "token": "eyJhbGciOiJIUzI1NiIs..."
}"#,
    );
    page().answers(
        "POST /v1/organizations/api-keys",
        201,
        &key(),
        r#"{
  "message": "API key created",
  "apiKey": {
    "id": "key_abc123",
    "name": "Production API",
    "key": "sk_live_abc123...",
    "createdAt": "2025-01-15T10:00:00.000Z"
  }
}"#,
    );
}

#[test]
fn answers_that_the_page_does_not_show_are_in_its_style() {
    let none = Values::new();
    let six = r#"{"user":{"id":"user_abc123","email":"user@example.com","name":"John Doe","organizationId":"org_xyz789","role":"admin","plan":"free"}}"#;
    page().answers("GET /v1/auth/me", 200, &user(), six);
    page().answers("POST /v1/auth/logout", 200, &none, r#"{"message":"Logged out successfully"}"#);
    page().answers("POST /v1/auth/change-password", 200, &none, r#"{"message":"Password changed successfully"}"#);
    let listed = r#"{"apiKeys":[{"id":"key_abc123","name":"Production API","createdAt":"2025-01-15T10:00:00.000Z","lastUsedAt":null}]}"#;
    page().answers("GET /v1/organizations/api-keys", 200, &Values::new().item(key()), listed);
    page().answers("GET /v1/organizations/api-keys", 200, &none, r#"{"apiKeys":[]}"#);
    page().answers("DELETE /v1/organizations/api-keys/{key_id}", 200, &none, r#"{"message":"API key revoked"}"#);
}

#[test]
fn refusals_are_what_the_page_shows() {
    let told = |code: &str, message: &str| {
        format!(
            r#"{{
  "error": {{
    "code": "{code}",
    "message": "{message}"
  }}
}}"#
        )
    };
    let pro = Bits::default().with(1).with(2);
    for (refusal, status, code, message) in [
        (Problem::InsufficientPermissions, 403, "FORBIDDEN", "Access denied"),
        (Problem::PlanRequired(pro), 403, "FORBIDDEN", "This feature requires Pro or Enterprise plan"),
        (Problem::PlanRequired(Bits::default().with(2)), 403, "FORBIDDEN", "This feature requires Enterprise plan"),
        (Problem::NotAuthenticated, 401, "UNAUTHORIZED", "Authentication required"),
        (Problem::InvalidToken, 401, "UNAUTHORIZED", "Invalid or expired token"),
        (Problem::TokenExpired, 401, "UNAUTHORIZED", "Invalid or expired token"),
        (Problem::InvalidCredentials, 401, "UNAUTHORIZED", "Invalid credentials"),
        (Problem::EmailTaken, 409, "CONFLICT", "Email already registered"),
        (Problem::RateLimited { retry_after: Duration::from_secs(1) }, 429, "RATE_LIMITED", "Too many requests"),
        (
            Problem::InvalidRequest(vec![FieldError::new("email", "is required")]),
            400,
            "VALIDATION_ERROR",
            "Invalid request: email is required",
        ),
        (Problem::NotFound, 404, "NOT_FOUND", "Not found"),
        (Problem::BadGateway, 502, "BAD_GATEWAY", "The upstream server could not be reached"),
    ] {
        page().refuses(&refusal, status, &told(code, message));
    }
    let page = page();
    for kind in ProblemKind::ALL {
        let code = &page.0.problems[kind].code;
        assert!(code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code} is not in the style");
    }
}

#[test]
fn roles_and_plans_open_what_the_page_says() {
    let page = page();
    let roles: Vec<(&str, bool)> = page.0.roles.iter().map(|role| (role.name.as_str(), role.read_only)).collect();
    assert_eq!(roles, [("owner", false), ("admin", false), ("member", false), ("viewer", true)]);
    assert_eq!(Some(page.0.register_role), page.0.role("admin"));
    assert_eq!(
        page.guards(),
        [
            "POST /api/teams/invites → owner admin",
            "DELETE /api/users/{id} → owner admin",
            "PATCH /api/organizations/current → owner admin",
            "POST /api/billing/checkout → owner admin",
            "POST /v1/audits/{id}/deep-analysis → Pro or Enterprise",
            "POST /v1/audits/{id}/rerun → Pro or Enterprise",
            "POST /v1/audits/{id}/tool-matching → Pro or Enterprise",
        ]
    );
    let limits: Vec<String> =
        page.0.plans.iter().map(|plan| format!("{} {} {}", plan.title, plan.limits[0], plan.limits[1])).collect();
    assert_eq!(limits, ["Free 10/1m 100/1d", "Pro 60/1m 1000/1d", "Enterprise 300/1m 10000/1d"]);
    assert!(page.0.plans[0].self_service && !page.0.plans[1].self_service && !page.0.plans[2].self_service);
}

#[test]
fn keys_are_for_enterprise_wherever_they_are_named() {
    let page = page();
    let enterprise = Some(Bits::default().with(2));
    let of_keys = page.0.operations.iter().filter(|served| served.operation.signature().name.starts_with("key_"));
    for served in of_keys {
        let revoked_on_any = served.operation == Operation::KeyRevoke;
        assert_eq!(served.requires.plans, enterprise.filter(|_| !revoked_on_any), "{:?}", served.operation);
    }
    let keys = page.0.keys.as_ref().unwrap();
    assert_eq!((keys.requires.plans, keys.prefix.as_str(), keys.expires_after), (enterprise, "sk_live_", None));
    let carried: Vec<_> = page.0.schemes.iter().map(|scheme| (scheme.name.as_str(), &scheme.carries[..])).collect();
    assert_eq!(carried, [("Bearer", &[Carried::Token, Carried::ApiKey][..]), ("ApiKey", &[Carried::ApiKey])]);
    assert!(!page.0.native_prefixes.iter().any(|prefix| is_below(prefix, "/v1/organizations/current")));
}
