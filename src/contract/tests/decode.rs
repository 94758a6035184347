//! What a client may send, and what it is told otherwise.

use std::time::Duration;

use super::{FieldError, Operation, Problem, Source, builtin, load};
use crate::contract::decode::{Input, MAX_BODY, decode};
use crate::contract::slot::Field;
use crate::model::time::Timestamp;

fn read(operation: Operation, content_type: Option<&str>, body: &str) -> Result<Input, Problem> {
    let contract = load(&Source::new("vantage", builtin("vantage").unwrap())).unwrap();
    let served = contract.operations.iter().find(|served| served.operation == operation).unwrap();
    decode(
        served,
        content_type,
        body.as_bytes(),
        [("key_id", "key_1")].into_iter().take(usize::from(served.on.path.contains("key_id"))),
    )
}

fn wrong(operation: Operation, body: &str) -> Vec<(String, String)> {
    match read(operation, Some("application/json"), body) {
        Err(Problem::InvalidRequest(errors)) => errors.into_iter().map(|each| (each.field, each.message)).collect(),
        other => panic!("{body}: {other:?}"),
    }
}

fn one(operation: Operation, body: &str, field: &str, message: &str) {
    assert_eq!(wrong(operation, body), [(field.to_owned(), message.to_owned())], "{body}");
}

#[test]
fn the_documented_bodies_are_read() {
    let body = r#"{"email": "user@example.com", "password": "secure_password", "name": "John Doe", "role": "owner"}"#;
    let input = read(Operation::Register, Some("application/json"), body).unwrap();
    assert_eq!(input.required_text(Field::Email), Ok("user@example.com"));
    assert_eq!(input.text(Field::Name), Ok(Some("John Doe")));
    assert_eq!(input.text(Field::Username), Ok(None));

    let body = r#"{"name": "My API Key", "description": null, "permissions": ["read:posts", "write:posts"],
        "expires_at": "2025-01-15T11:00:00+01:00", "attributes": {"server_id": "s"}}"#;
    let input = read(Operation::KeyCreate, Some("application/json; charset=utf-8"), body).unwrap();
    assert_eq!(input.text(Field::KeyDescription), Ok(None));
    assert_eq!(input.texts(Field::KeyPermissions).unwrap().unwrap(), ["read:posts", "write:posts"]);
    assert_eq!(input.timestamp(Field::KeyExpiresAt), Ok(Some(Timestamp::from_millis(1_736_935_200_000))));
    assert_eq!(input.object(Field::KeyAttributes).unwrap().unwrap()["server_id"], "s");
    assert_eq!(input.error(Field::KeyName, "is taken"), FieldError::new("name", "is taken"));
}

#[test]
fn a_body_that_an_operation_does_not_need_may_be_absent_or_anything() {
    let input = read(Operation::KeyRotate, None, "").unwrap();
    assert_eq!((input.seconds(Field::OverlapSeconds), input.required_text(Field::KeyId)), (Ok(None), Ok("key_1")));
    let input = read(Operation::KeyRotate, Some("application/json"), r#"{"overlap_seconds": 0}"#).unwrap();
    assert_eq!(input.seconds(Field::OverlapSeconds), Ok(Some(Duration::ZERO)));
    read(Operation::RefreshBearer, Some("text/plain"), "\u{0}{{{").unwrap();
}

#[test]
fn everything_that_is_wrong_is_told_at_once_by_the_clients_names() {
    let told = wrong(Operation::Register, r#"{"email": 1, "name": ["x"]}"#);
    let told: Vec<String> = told.iter().map(|(field, message)| format!("{field} {message}")).collect();
    assert_eq!(told, ["email must be a string", "password is required", "name must be a string"]);
    let told = wrong(Operation::Login, "");
    assert_eq!(told.iter().map(|each| each.0.as_str()).collect::<Vec<_>>(), ["email", "password"]);
}

#[test]
fn a_value_of_another_type_is_never_bent_into_the_right_one() {
    let key = |rest: &str| format!(r#"{{"name": "k", {rest}}}"#);
    for (rest, field, message) in [
        (r#""permissions": "read:posts""#, "permissions", "must be an array of strings"),
        (r#""permissions": ["a", 1]"#, "permissions[1]", "must be a string"),
        (r#""attributes": []"#, "attributes", "must be an object whose values are strings"),
        (r#""attributes": {"a": {}}"#, "attributes.a", "must be a string"),
        (r#""expires_at": 1736935200"#, "expires_at", "must be a time such as 2025-01-15T10:00:00Z"),
        (r#""expires_at": "2025-01-15""#, "expires_at", "must be a time such as 2025-01-15T10:00:00Z"),
        (r#""description": true"#, "description", "must be a string"),
        (r#""description": "\u0000""#, "description", "must not contain the character U+0000"),
    ] {
        one(Operation::KeyCreate, &key(rest), field, message);
    }
    for bad in ["-1", "1.5", "60.0", "\"60\"", "1e3", "99999999999999999999", "true", "[]"] {
        let body = format!(r#"{{"overlap_seconds": {bad}}}"#);
        one(Operation::KeyRotate, &body, "overlap_seconds", "must be a whole number of seconds");
    }
    one(Operation::Login, r#"{"email": "", "password": "x"}"#, "email", "must not be empty");
    one(Operation::Login, r#"{"email": null, "password": "x"}"#, "email", "is required");
}

#[test]
fn a_key_that_stands_twice_is_refused_wherever_it_stands() {
    one(Operation::Login, r#"{"email":"a","password":"b","email":"c"}"#, "email", "stands more than once");
    // The same key to a parser, in two spellings.
    one(Operation::Login, r#"{"email":"a","password":"b","\u0065mail":"c"}"#, "email", "stands more than once");
    one(Operation::Login, r#"{"email":"a","x":[{"y":{"z":1,"z":2}}]}"#, "x.y.z", "stands more than once");
    let long = "k".repeat(10_000);
    one(Operation::Login, &format!(r#"{{"{long}":1,"{long}":2}}"#), &long[..64], "stands more than once");
}

#[test]
fn nesting_is_bounded() {
    let nest =
        |depth: usize| format!(r#"{{"email":"a","password":"b","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    read(Operation::Login, None, &nest(31)).unwrap();
    one(Operation::Login, &nest(32), "x", "is nested too deeply");
    one(Operation::Login, &nest(100_000), "x", "is nested too deeply");
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    for bad in ["[]", "1", "\"email\"", "null"] {
        one(Operation::Login, bad, "", "must be a JSON object");
    }
    for bad in ["{", "{}{}", "{\"email\":}", "{'email':1}", "{\"a\":1,}", "nul", "{\"a\":\"\\ud800\"}", "{\"a\":NaN}"] {
        let told = wrong(Operation::Login, bad);
        assert!(
            told.len() == 1 && told[0].0.is_empty() && told[0].1.starts_with("is not JSON: line 1"),
            "{bad}: {told:?}"
        );
    }
    let contract = load(&Source::new("vantage", builtin("vantage").unwrap())).unwrap();
    let login = &contract.operations[1];
    let told = decode(login, None, b"{\"email\":\"\xff\"}", std::iter::empty()).unwrap_err();
    assert_eq!(told.kind().name(), "invalid_request");
}

#[test]
fn only_json_is_read() {
    let body = r#"{"email":"a","password":"b"}"#;
    for good in [None, Some("application/json"), Some("Application/JSON ; charset=UTF-8"), Some("application/x.y+json")]
    {
        read(Operation::Login, good, body).unwrap();
    }
    for bad in ["application/x-www-form-urlencoded", "text/json", "application/jsonx", "application/+json", "", "json"]
    {
        let told = read(Operation::Login, Some(bad), body).unwrap_err();
        assert_eq!(told, Problem::UnsupportedMediaType, "{bad}");
    }
    let long = " ".repeat(MAX_BODY + 1);
    assert_eq!(read(Operation::Login, None, &long).unwrap_err(), Problem::PayloadTooLarge);
}

#[test]
fn debug_shows_no_value() {
    let input = read(Operation::Login, None, r#"{"email":"a@b","password":"hunter2"}"#).unwrap();
    assert_eq!(format!("{input:?}"), r#"{"identifier", "password"}"#);
}
