//! The page of `rag-modulo`.

use super::page::Page;
use super::{Problem, Slot, Values};
use crate::model::id::IdStyle;

fn page() -> Page {
    Page::of("rag-modulo")
}

fn user() -> Values {
    Values::new()
        .set(Slot::UserId, "123e4567-e89b-12d3-a456-426614174000")
        .set(Slot::UserUsername, "user@example.com")
        .set(Slot::UserEmail, "user@example.com")
        .set(Slot::AccessToken, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...")
        .set(Slot::ExpiresIn, 3600)
}

#[test]
fn registration_is_read_and_answered_as_the_page_shows() {
    let shown = r#"{
  "username": "user@example.com",
  "password": "secure_password",
  "email": "user@example.com"
}"#;
    let read = page().reads("POST /api/auth/register", "application/json", shown);
    let expected = [("email", "user@example.com"), ("username", "user@example.com"), ("password", "secure_password")];
    assert_eq!(read, expected.map(|(field, value)| (field, value.to_owned())));
    page().answers(
        "POST /api/auth/register",
        201,
        &user(),
        r#"{
  "user_id": "123e4567-e89b-12d3-a456-426614174000",
  "username": "user@example.com",
  "email": "user@example.com"
}"#,
    );
}

#[test]
fn sign_in_is_read_and_answered_as_the_page_shows() {
    let shown = r#"{
  "username": "user@example.com",
  "password": "secure_password"
}"#;
    let read = page().reads("POST /api/auth/login", "application/json", shown);
    assert_eq!(read, [("identifier", "user@example.com".to_owned()), ("password", "secure_password".to_owned())]);
    page().answers(
        "POST /api/auth/login",
        200,
        &user(),
        r#"{
  "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
  "token_type": "bearer",
  "expires_in": 3600
}"#,
    );
}

#[test]
fn the_address_may_stand_in_for_the_username_and_the_username_comes_first() {
    let login = "POST /api/auth/login";
    for (body, identifier) in [
        (r#"{"email": "a@b.c", "password": "p"}"#, "a@b.c"),
        (r#"{"email": "a@b.c", "username": "jo", "password": "p"}"#, "jo"),
        (r#"{"username": null, "email": "a@b.c", "password": "p"}"#, "a@b.c"),
    ] {
        assert_eq!(page().reads(login, "application/json", body)[0], ("identifier", identifier.to_owned()), "{body}");
    }
    assert_eq!(page().complains(login, r#"{"password": "p"}"#), ["username is required"]);
    assert_eq!(page().complains(login, r#"{"email": 1, "password": "p"}"#), ["email must be a string"]);
    assert_eq!(
        page().complains("POST /api/auth/register", r#"{"email": "a@b.c"}"#),
        ["username is required", "password is required"]
    );
}

#[test]
fn refusals_are_the_pages_three_texts() {
    page().refuses(&Problem::InvalidToken, 401, r#"{ "detail": "Invalid authentication credentials" }"#);
    page().refuses(&Problem::TokenExpired, 401, r#"{ "detail": "Token has expired" }"#);
    page().refuses(&Problem::NotAuthenticated, 401, r#"{ "detail": "Not authenticated" }"#);
    page().refuses(&Problem::InvalidCredentials, 401, r#"{ "detail": "Invalid authentication credentials" }"#);
    page().refuses(&Problem::EmailTaken, 409, r#"{ "detail": "Email already registered" }"#);
    page().refuses(&Problem::NotFound, 404, r#"{ "detail": "Not found" }"#);
}

#[test]
fn there_are_no_limits_no_keys_and_no_other_routes() {
    let contract = page().0;
    assert!(contract.keys.is_none() && contract.agents.is_none() && contract.mail.is_none());
    assert!(contract.tokens.refresh.is_none() && contract.guards.is_empty());
    assert!(contract.plans.iter().all(|plan| plan.limits.is_empty()));
    assert_eq!((contract.ids.user, contract.tokens.access_ttl.as_secs()), (IdStyle::Uuid, 3600));
    assert_eq!(page().places(), ["POST /api/auth/register", "POST /api/auth/login"]);
}
