//! The built-in contracts against their pages, and bad files against the messages they must give.

mod bad;
mod bad_parts;
mod chatops;
mod decode;
mod fuzz;
mod langgraph;
mod page;
mod rag_modulo;
mod stackaudit;

use serde_json::json;

use super::compile::{BUILTIN, builtin, load, show};
use super::encode::{Rendered, Values, answer, problem};
use super::operation::Operation;
use super::slot::Slot;
use super::source::Source;
use super::{Carried, Contract, Scheme, Served};
use crate::model::access::{Bits, PlanId, RoleId};
use crate::model::id::IdStyle;
use crate::model::problem::{FieldError, Problem, ProblemKind};

const VANTAGE: &str = include_str!("../../../config/contracts/vantage.toml");

fn vantage() -> Contract {
    compiled(VANTAGE)
}

fn compiled(text: &str) -> Contract {
    load(&Source::new("c.toml", text)).unwrap_or_else(|errors| panic!("{}", lines(&errors).join("\n")))
}

fn lines(errors: &[super::source::Located]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn served(contract: &Contract, operation: Operation) -> &Served {
    contract.operations.iter().find(|served| served.operation == operation).unwrap()
}

fn body(operation: Operation, values: &Values) -> String {
    let contract = vantage();
    String::from_utf8(answer(served(&contract, operation), values)).unwrap()
}

fn user() -> Values {
    Values::new()
        .set(Slot::UserId, "user_123")
        .set(Slot::UserEmail, "user@example.com")
        .set(Slot::UserName, "John Doe")
        .set(Slot::OrgId, "org_456")
        .set(Slot::AccessToken, "eyJ.e30.c2ln")
        .set(Slot::ExpiresIn, 3600)
}

fn key() -> Values {
    Values::new()
        .set(Slot::KeyId, "key_123")
        .set(Slot::KeyName, "My API Key")
        .set(Slot::KeySecret, "vantage_1234567890abcdef")
        .set(Slot::KeyPermissions, json!(["read:posts", "write:posts"]))
        .set(Slot::KeyCreatedAt, "2024-01-15T10:00:00.000Z")
        .set(Slot::KeyExpiresAt, "2025-01-15T10:00:00.000Z")
}

#[test]
fn every_built_in_contract_loads_and_is_named_as_it_is_called() {
    for name in BUILTIN {
        assert_eq!(load(&Source::new(*name, builtin(name).unwrap())).unwrap().name, *name);
        assert_eq!(show(name).ok(), builtin(name));
    }
    assert_eq!(
        show("vantge").unwrap_err().to_string(),
        "there is no built-in contract `vantge`: did you mean `vantage`?"
    );
}

#[test]
fn vantage_answers_as_its_page_shows() {
    let contract = vantage();
    assert_eq!(
        body(Operation::Login, &user()),
        r#"{"access_token":"eyJ.e30.c2ln","token_type":"bearer","expires_in":3600,"user":{"id":"user_123","email":"user@example.com","name":"John Doe","org_id":"org_456"}}"#
    );
    assert_eq!(
        body(Operation::RefreshBearer, &user()),
        r#"{"access_token":"eyJ.e30.c2ln","token_type":"bearer","expires_in":3600}"#
    );
    assert_eq!(
        body(Operation::Register, &user()),
        r#"{"id":"user_123","email":"user@example.com","name":"John Doe","org_id":"org_456"}"#
    );
    assert_eq!(
        body(Operation::KeyCreate, &key()),
        r#"{"id":"key_123","name":"My API Key","key":"vantage_1234567890abcdef","permissions":["read:posts","write:posts"],"created_at":"2024-01-15T10:00:00.000Z","expires_at":"2025-01-15T10:00:00.000Z"}"#
    );
    for (operation, status, on) in [
        (Operation::Register, 201, "POST /api/v1/auth/register"),
        (Operation::Login, 200, "POST /api/v1/auth/login"),
        (Operation::RefreshBearer, 200, "POST /api/v1/auth/refresh"),
        (Operation::KeyCreate, 201, "POST /api/v1/api-keys"),
        (Operation::KeyList, 200, "GET,HEAD /api/v1/api-keys"),
        (Operation::KeyRotate, 201, "POST /api/v1/api-keys/{key_id}/rotate"),
        (Operation::KeyRevoke, 200, "DELETE /api/v1/api-keys/{key_id}"),
    ] {
        let served = served(&contract, operation);
        assert_eq!((served.status, served.on.to_string().as_str()), (status, on));
    }
}

#[test]
fn a_list_renders_each_element_and_never_a_secret() {
    let values = Values::new().item(key()).item(key().set(Slot::KeyDescription, "for my application"));
    let text = body(Operation::KeyList, &values);
    assert!(text.starts_with(r#"{"api_keys":[{"id":"key_123","name":"My API Key","description":null,"#), "{text}");
    assert!(text.contains(r#"},{"id":"key_123","name":"My API Key","description":"for my application","#), "{text}");
    assert!(text.ends_with(r#""last_used_at":null,"revoked_at":null}]}"#), "{text}");
    assert!(!text.contains("vantage_1234"), "{text}");
    assert_eq!(body(Operation::KeyList, &Values::new()), r#"{"api_keys":[]}"#);
}

#[test]
fn vantage_refuses_as_its_page_shows() {
    let contract = vantage();
    let retry_after = std::time::Duration::from_secs(1);
    for (refusal, status, body) in [
        (Problem::NotAuthenticated, 401, r#"{"detail":"Not authenticated","error":"not_authenticated"}"#),
        (Problem::InvalidToken, 401, r#"{"detail":"Could not validate credentials","error":"invalid_token"}"#),
        (Problem::TokenExpired, 401, r#"{"detail":"Token has expired","error":"token_expired"}"#),
        (Problem::InvalidCredentials, 401, r#"{"detail":"Invalid credentials","error":"invalid_credentials"}"#),
        (
            Problem::InsufficientPermissions,
            403,
            r#"{"detail":"Insufficient permissions","error":"insufficient_permissions"}"#,
        ),
        (
            Problem::RateLimited { retry_after },
            429,
            r#"{"detail":"Rate limit exceeded","error":"rate_limit_exceeded"}"#,
        ),
        (Problem::EmailTaken, 409, r#"{"detail":"Email already registered","error":"email_taken"}"#),
        (Problem::NotFound, 404, r#"{"detail":"Not found","error":"not_found"}"#),
        (
            Problem::PlanRequired(Bits::default().with(1).with(2)),
            403,
            r#"{"detail":"This feature requires Growth or Pro plan","error":"plan_required"}"#,
        ),
        (
            Problem::InvalidRequest(vec![FieldError::new("email", "is required"), FieldError::new("", "is \"odd\"")]),
            400,
            r#"{"detail":"Invalid request: email is required; the body is \"odd\"","error":"invalid_request"}"#,
        ),
        (
            Problem::MalformedRequest("two Host headers"),
            400,
            r#"{"detail":"Malformed request: two Host headers","error":"malformed_request"}"#,
        ),
    ] {
        assert_eq!(problem(&contract, &refusal), Rendered { status, body: body.into() }, "{refusal:?}");
    }
}

#[test]
fn every_kind_of_problem_has_a_shape_and_only_what_varies_is_rendered_each_time() {
    let contract = vantage();
    let varying: Vec<ProblemKind> =
        ProblemKind::ALL.iter().copied().filter(|kind| contract.problems[kind].rendered.is_none()).collect();
    assert_eq!(varying, [ProblemKind::PlanRequired, ProblemKind::InvalidRequest, ProblemKind::MalformedRequest]);
    for kind in ProblemKind::ALL {
        assert_eq!(contract.problems[kind].status, kind.default_status());
    }
}

#[test]
fn vantage_means_what_its_page_says() {
    let contract = vantage();
    assert_eq!(contract.ids.user, IdStyle::Prefixed("user_".into()));
    assert_eq!(contract.ids.session, IdStyle::Uuid);
    assert_eq!(contract.tokens.access_ttl.as_secs(), 3600);
    let limits: Vec<String> = contract.plans.iter().map(|plan| format!("{} {}", plan.title, plan.limits[0])).collect();
    assert_eq!(limits, ["Free 100/1h", "Growth 1000/1h", "Pro 10000/1h"]);
    let schemes = [("Bearer", Carried::Token), ("ApiKey", Carried::ApiKey)];
    let schemes = schemes.map(|(name, carried)| Scheme { name: name.into(), carries: vec![carried] });
    assert_eq!(contract.schemes, schemes);
    assert_eq!((contract.role("viewer"), contract.plan("pro")), (Some(RoleId(2)), Some(PlanId(2))));
    assert_eq!(contract.register_role, RoleId(0));
    assert!(contract.roles[2].read_only && !contract.roles[1].read_only);
    let asked: Vec<String> =
        contract.guards.iter().map(|guard| guard.requires.permissions[0].fill(|_| Some("posts"))).collect();
    assert_eq!(asked, ["read:posts", "write:posts"]);
}

#[test]
fn what_a_client_called_itself_stays_inside_its_string() {
    for name in [
        "\" , \"role\": \"admin",
        "\\",
        "\u{0}\u{1f}\n\r\t",
        "\u{2028}\u{2029}",
        "日本 \u{1f600}",
        "$user.id",
        "</script>",
    ] {
        let text = body(Operation::Login, &user().set(Slot::UserName, name));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["user"]["name"], name);
        assert_eq!(read["user"].as_object().unwrap().len(), 4);
        assert!(!text.contains(['\u{2028}', '\u{2029}', '\n', '\u{0}']), "{text}");
    }
    let contract = vantage();
    let errors = vec![FieldError::new("a\"\u{2028}", "b\\")];
    let text = problem(&contract, &Problem::InvalidRequest(errors)).body;
    let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(read["detail"], "Invalid request: a\"\u{2028} b\\");
}

/// The least that is a contract.
const LEAST: &str = "name = 'least'\n";

#[test]
fn a_contract_states_only_what_its_page_states() {
    let contract = compiled(LEAST);
    assert_eq!(contract.schemes, [Scheme { name: "Bearer".into(), carries: vec![Carried::Token] }]);
    assert_eq!((contract.roles.len(), contract.plans.len(), contract.password.min_length), (1, 1, 8));
    let told = problem(&contract, &Problem::NotFound);
    assert_eq!(told, Rendered { status: 404, body: r#"{"error":{"code":"not_found","message":"Not found"}}"#.into() });
}

#[test]
fn details_stand_where_the_body_asks_for_them() {
    let contract = compiled(
        "name = 'd'\n[problem]\nbody = { error = { code = '$code', message = '$message' } }\n\
         [problem.invalid_request]\nmessage = 'Invalid request parameters'\nstatus = 422\n\
         body = { error = { code = '$code', message = '$message', details = '$details' }, n = [1, true, 1.5, 'a$$b'] }\n",
    );
    let errors = [("password", "is short"), ("email", "is required"), ("password", "needs a digit"), ("", "is odd")];
    let errors = errors.map(|(field, message)| FieldError::new(field, message)).to_vec();
    assert_eq!(
        problem(&contract, &Problem::InvalidRequest(errors)),
        Rendered {
            status: 422,
            body: r#"{"error":{"code":"invalid_request","message":"Invalid request parameters","details":{"password":["is short","needs a digit"],"email":["is required"],"body":["is odd"]}},"n":[1,true,1.5,"a$b"]}"#.into()
        }
    );
    assert_eq!(problem(&contract, &Problem::NotFound).body, r#"{"error":{"code":"not_found","message":"Not found"}}"#);
}

#[test]
fn a_role_in_a_requirement_brings_those_above_it_and_a_plan_does_not() {
    let contract = compiled(
        "name = 'r'\n[role.owner]\npermissions = ['*']\n[role.admin]\npermissions = ['*']\n[role.member]\npermissions = []\n\
         [plan.free]\n[plan.pro]\n[plan.enterprise]\n[[guard]]\nmatch = 'POST /api/teams/invites'\nroles = ['admin']\nplans = ['pro']\n",
    );
    let requires = &contract.guards[0].requires;
    assert_eq!(requires.roles.unwrap().iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(requires.plans.unwrap().iter().collect::<Vec<_>>(), [1]);
}
