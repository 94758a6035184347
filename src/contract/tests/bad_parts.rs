//! Bad files of the parts that not every product has: refresh tokens, mails, agents, several names of a field.

use super::bad::check;

#[test]
fn fields_may_have_several_names_and_be_asked_for() {
    check(
        r#"name = "c"
native_prefixes = ["/auth", "/a/{id}", "/{x}/auth", "/{y}/auth", "/a/{id}/keys"]

[[operation]]
do = "login"
on = "POST /auth/login"
form = true
reads = { identifier = ["email", ""], password = [], device = "device" }
required = ["devise", "identifier", "username"]
answer.body = "$access_token"

[[operation]]
do = "register"
on = "POST /auth/register/{password_confirm}"
reads = { email = "e", password = ["p", 6], name = 5 }

[[operation]]
do = "refresh_bearer"
on = "POST /auth/refresh"
form = true
answer.body = "$access_token"
"#,
        &[
            "c.toml:2:29: native_prefixes[1]: `/a/{id}` is not a path prefix: literal segments or `{name}`, the last one literal\n    help: write a path such as `/api/v1/auth`",
            "c.toml:2:53: native_prefixes[3]: `/{y}/auth` stands twice\n    help: leave one of them out",
            "c.toml:5:6: operation[0].do: `login` needs `password`\n    help: add `password = \"<its name in the body>\"` to `reads`",
            "c.toml:7:8: operation[0].form: a form holds texts, and `device` is none\n    help: leave `form` out, or do not read the field",
            "c.toml:8:34: operation[0].reads.identifier[1]: a field of a body has a name\n    help: write the name that the client sends",
            "c.toml:8:50: operation[0].reads.password: a field of a body has a name\n    help: write the name that the client sends",
            "c.toml:9:13: operation[0].required[0]: `login` reads no `devise` from its body\n    help: did you mean `device`?",
            "c.toml:9:37: operation[0].required[2]: `login` reads no `username` from its body\n    help: one of: identifier, password, device",
            "c.toml:14:6: operation[1].on: `register` takes no `{password_confirm}` from the path\n    help: one of: email, username, name, org_name, plan",
            "c.toml:15:41: operation[1].reads.password[1]: expected a string, found an integer\n    help: write a string in quotes",
            "c.toml:15:52: operation[1].reads.name: expected a string or a list of strings, found an integer\n    help: write a string in quotes",
            "c.toml:20:8: operation[2].form: `refresh_bearer` reads no body\n    help: leave `form` out",
        ],
    );
}

#[test]
fn a_refresh_token_is_made_somewhere_and_taken_somewhere() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[[operation]]
do = "login"
on = "POST /auth/login"
reads = { identifier = "email", password = "password" }
answer.body = { a = "$access_token", r = "$refresh_token" }
[[operation]]
do = "refresh_token"
on = "POST /auth/refresh/{refresh_token}"
answer.body = "$access_token"
[[operation]]
do = "logout"
on = "POST /auth/logout"
reads = { refresh_token = "r" }
"#,
        &[
            "c.toml:7:15: operation[0].answer.body: the product has no refresh tokens\n    help: add [tokens.refresh] with ttl = \"7d\", or leave `$refresh_token` out",
            "c.toml:9:6: operation[1].do: `refresh_token` needs to know how refresh tokens are made\n    help: add [tokens.refresh] with ttl = \"7d\"",
            "c.toml:10:6: operation[1].on: `refresh_token` takes no `{refresh_token}` from the path\n    help: nothing can stand here",
            "c.toml:15:11: operation[2].reads.refresh_token: the product has no refresh tokens\n    help: add [tokens.refresh], or leave the field out",
        ],
    );
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[tokens]
access_ttl = "1h"
[tokens.refresh]
ttl = "30m"
rotation = "none"
grace = "10s"
[[operation]]
do = "login"
on = "POST /auth/login"
reads = { identifier = "email", password = "password" }
answer.body = { a = "$access_token" }
[[operation]]
do = "refresh_token"
on = "POST /auth/refresh"
reads = { refresh_token = "r" }
answer.body = { a = "$access_token", r = "$refresh_token" }
[[operation]]
do = "refresh_bearer"
on = "POST /auth/renew"
answer.body = { a = "$access_token", r = "$refresh_token" }
"#,
        &[
            "c.toml:6:7: tokens.refresh.ttl: a refresh token would end before the access token that it came with\n    help: make ttl at least access_ttl",
            "c.toml:8:9: tokens.refresh.grace: nothing rotates, so no replaced token needs a grace\n    help: leave `grace` out",
            "c.toml:13:15: operation[0].answer.body: the answer of `login` holds no `$refresh_token`\n    help: add \"$refresh_token\" where the client looks for it",
            "c.toml:18:15: operation[1].answer.body: nothing rotates, so there is no new refresh token\n    help: leave `$refresh_token` out, or write rotation = \"rotate\" in [tokens.refresh]",
            "c.toml:22:43: operation[2].answer.body.r: `refresh_bearer` does not give `$refresh_token`\n    help: one of: user.id, user.email, user.username, user.name, user.role, user.email_verified, user.created_at, user.updated_at, org.id, org.name, plan, access_token, expires_in, session.id",
        ],
    );
    check(
        r#"name = "c"
[tokens.refresh]
rotation = "rotates"
grace = "6m"
"#,
        &[
            "c.toml:2:1: tokens.refresh.ttl: missing\n    help: add `ttl = …` here",
            "c.toml:3:12: tokens.refresh.rotation: unknown value `rotates`\n    help: did you mean `rotate`?",
        ],
    );
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[tokens.refresh]
ttl = "0s"
grace = "6m"
[[operation]]
do = "refresh_token"
on = "POST /auth/refresh"
reads = { refresh_token = "r" }
answer.body = { a = "$access_token" }
"#,
        &[
            "c.toml:4:7: tokens.refresh.ttl: it would be over when it begins\n    help: write a length such as `1h`",
            "c.toml:5:9: tokens.refresh.grace: a grace of more than five minutes\n    help: 10s is enough for the tabs of one browser",
            "c.toml:10:15: operation[0].answer.body: the answer of `refresh_token` holds no `$refresh_token`\n    help: add \"$refresh_token\" where the client looks for it",
        ],
    );
}

#[test]
fn a_key_may_call_what_tells_of_its_maker_and_nothing_else() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[[operation]]
do = "me"
on = "GET /auth/me"
by_key = true
answer.body = { id = "$user.id" }
[[operation]]
do = "logout"
on = "POST /auth/logout"
by_key = true
"#,
        &[
            "c.toml:6:10: operation[0].by_key: the product has no API keys\n    help: add a [keys] table, or leave it out",
            "c.toml:11:10: operation[1].by_key: `logout` is for signed-in users: a key that was stolen must not do it\n    help: leave it out; `me` is what a key may call",
        ],
    );
}

#[test]
fn a_refresh_token_that_ends_with_the_password_needs_a_password_that_changes() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[tokens.refresh]
ttl = "7d"
ends_with_password = true
[[operation]]
do = "login"
on = "POST /auth/login"
reads = { identifier = "email", password = "password" }
answer.body = { token = "$access_token", refresh = "$refresh_token" }
[[operation]]
do = "refresh_token"
on = "POST /auth/refresh"
reads = { refresh_token = "refresh" }
answer.body = { token = "$access_token", refresh = "$refresh_token" }
"#,
        &[
            "c.toml:5:22: tokens.refresh.ends_with_password: no operation changes a password\n    help: add an [[operation]] with do = \"password_change\", or leave this out",
        ],
    );
}

#[test]
fn mails_and_sessions_hold_together() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[sessions]
max = 0
idle = "0s"
[[operation]]
do = "email_verify"
on = "POST /auth/verify/{token}"
[[operation]]
do = "password_reset_request"
on = "POST /auth/reset-request"
reads = { email = "email" }
[[operation]]
do = "session_list"
on = "GET /auth/sessions"
answer.body = { sessions = [] }
"#,
        &[
            "c.toml:4:7: sessions.max: a user has at least 1 session and at most 1000\n    help: 5 is usual; without it, any number",
            "c.toml:5:8: sessions.idle: it would be over when it begins\n    help: write a length such as `1h`",
            "c.toml:7:6: operation[0].do: `email_verify` needs to know how long the token in a mail lives\n    help: add a [mail] table; it may be empty",
            "c.toml:8:6: operation[0].on: `email_verify` takes no `{token}` from the path\n    help: nothing can stand here",
            "c.toml:10:6: operation[1].do: `password_reset_request` needs to know how long the token in a mail lives\n    help: add a [mail] table; it may be empty",
            "c.toml:16:15: operation[2].answer.body: `session_list` gives a list, and `answer.item` is missing\n    help: add `item = { … }` to its answer",
            "c.toml:16:15: operation[2].answer.body: the answer of `session_list` holds no `$items`\n    help: add \"$items\" where the client looks for it",
        ],
    );
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[mail]
verify_ttl = "soon"
reset_ttl = "0m"
verify_on_register = true
reset_on_register = true
[[operation]]
do = "password_reset"
on = "POST /auth/reset"
reads = { token = "t", new_password = "n" }
[[operation]]
do = "email_resend"
on = "POST /auth/resend"
reads = { email = "e" }
"#,
        &[
            "c.toml:4:14: mail.verify_ttl: a length of time is a whole number and ms, s, m, h or d, at most 3653d\n    help: write a length such as `30m` or `7d`",
            "c.toml:5:13: mail.reset_ttl: it would be over when it begins\n    help: write a length such as `1h`",
            "c.toml:6:22: mail.verify_on_register: no operation takes the verification token\n    help: add an [[operation]] with do = \"email_verify\", or leave this out",
            "c.toml:7:1: mail.reset_on_register: unknown key `reset_on_register`\n    help: one of: verify_ttl, reset_ttl, verify_on_register",
            "c.toml:9:6: operation[0].do: nothing sends a reset token\n    help: add an [[operation]] with do = \"password_reset_request\"",
            "c.toml:13:6: operation[1].do: no operation takes the verification token\n    help: add an [[operation]] with do = \"email_verify\"",
        ],
    );
    check(
        r#"name = "c"
native_prefixes = ["/auth"]
[mail]
[[operation]]
do = "email_verify"
on = "POST /auth/verify"
reads = { token = "t" }
[[operation]]
do = "password_reset_request"
on = "POST /auth/reset-request"
reads = { email = "e" }
"#,
        &[
            "c.toml:5:6: operation[0].do: nothing sends a verification token\n    help: add an [[operation]] with do = \"email_resend\", or verify_on_register = true to [mail]",
            "c.toml:9:6: operation[1].do: no operation takes the reset token\n    help: add an [[operation]] with do = \"password_reset\"",
        ],
    );
    check(
        "name = 'c'\n[mail]\nverify_on_register = true\n",
        &[
            "c.toml:2:1: mail: no operation takes a token out of a mail\n    help: add an [[operation]] with do = \"email_verify\" or \"password_reset\", or leave [mail] out",
        ],
    );
}

#[test]
fn agents_come_by_one_get_with_a_key() {
    check(
        r#"name = "c"
native_prefixes = ["/v1/keys"]
[agents]
on = "GET,POST /v1/keys/{*rest}"
first = { type_field = "key", type = "auth", key_field = "key" }
patience = "0s"
max_message = 10
close_code = 1000
accepted = { id = "$session.id", secret = "$key.secret", server = "$key.server_id" }
refused = { message = "no: $message", details = "$details" }
"#,
        &[
            "c.toml:3:1: agents: agents show an API key, and the product has none\n    help: add a [keys] table with the keys' prefix",
            "c.toml:4:6: agents.on: a WebSocket is opened by GET\n    help: write `GET /v1/keys/{*rest}`",
            "c.toml:4:6: agents.on: agents connect at one path, not at `{*rest}`\n    help: name each segment",
            "c.toml:4:6: agents.on: nothing below a native prefix is forwarded, so no agent would reach a backend\n    help: give the agents a path elsewhere",
            "c.toml:5:58: agents.first.key_field: one field cannot hold both\n    help: give the key a field of its own",
            "c.toml:6:12: agents.patience: an agent has between 1ms and 5m for its first message\n    help: 10s is usual",
            "c.toml:7:15: agents.max_message: a first message has at most 64 to 65536 bytes\n    help: 4096 is usual",
            "c.toml:8:14: agents.close_code: not a status that closes a refused connection\n    help: 1008, or 3000 to 4999",
            "c.toml:9:20: agents.accepted.id: the answer to an accepted key does not give `$session.id`\n    help: one of: key.id, key.name, key.description, key.permissions, key.created_at, key.expires_at, key.last_used_at, key.revoked_at, key.attributes, key.server_id, user.id, user.email, user.username, user.name, user.role, user.email_verified, user.created_at, user.updated_at, org.id, org.name, plan",
            "c.toml:9:44: agents.accepted.secret: the answer to an accepted key does not give `$key.secret`\n    help: one of: key.id, key.name, key.description, key.permissions, key.created_at, key.expires_at, key.last_used_at, key.revoked_at, key.attributes, key.server_id, user.id, user.email, user.username, user.name, user.role, user.email_verified, user.created_at, user.updated_at, org.id, org.name, plan",
            "c.toml:10:50: agents.refused.details: the answer to a refused key does not give `$details`\n    help: one of: code, message",
        ],
    );
    check(
        r#"name = "c"
[keys]
prefix = "k_"
[agents]
on = "GET /ws"
first = { type_field = "", type = "auth" }
accepted = 1
"#,
        &[
            "c.toml:4:1: agents.refused: missing\n    help: add `refused = …` here",
            "c.toml:6:9: agents.first.key_field: missing\n    help: add `key_field = …` here",
        ],
    );
    check(
        r#"name = "c"
[keys]
prefix = "k_"
plans = ["pro", "fre"]
[plan.free]
[agents]
on = "GET /ws//"
first = { type_field = "", type = "auth", key_field = "key" }
accepted = "$key.id"
refused = "$message"
"#,
        &[
            "c.toml:4:10: keys.plans[0]: there is no plan `pro`\n    help: only `free` can stand here",
            "c.toml:4:17: keys.plans[1]: there is no plan `fre`\n    help: did you mean `free`?",
            "c.toml:7:6: agents.on: `/ws//` is not a path pattern: it starts with `/`, its segments are literal text or one whole `{name}`, and `{*name}` stands last\n    help: write it as `GET /v1/items/{id}`",
            "c.toml:8:24: agents.first.type_field: a field of a message has a name\n    help: write the name that the agent sends",
        ],
    );
    check(
        "name = 'c'\n[keys]\nprefix = 'k_'\nplans = []\n",
        &["c.toml:4:9: keys.plans: no plan at all would pass\n    help: leave the list out for any plan"],
    );
}

#[test]
fn what_an_operation_asks_is_never_tried_and_two_windows_of_one_length_may_be_one_of_each() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]

[plan.free]
limits = ["100/1h", "50/1h shadow", "20/60m shadow"]

[[operation]]
do = "login"
on = "POST /auth/login"
shadow = true
reads = { identifier = "email", password = "password" }
answer.body = "$access_token"

[[guard]]
match = "GET /items/{id}"
plans = ["free"]

[[guard]]
match = "GET /items/{id}"
plans = ["free"]
shadow = true

[[guard]]
match = "GET /items/{name}"
shadow = true
"#,
        &[
            "c.toml:5:37: plan.free.limits[2]: two windows of one length: only the smaller would count\n    help: leave one of them out",
            "c.toml:10:10: operation[0].shadow: what a native operation asks is never in shadow: it makes keys, ends sessions and tells secrets\n    help: leave shadow out; guards, routes and windows can be tried",
            "c.toml:24:9: guard[2].match: a guard on these methods and this path stands above\n    help: make one guard of the two",
        ],
    );
}
