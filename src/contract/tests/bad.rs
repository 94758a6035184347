//! Bad contracts and every word of what each is told.

use super::{LEAST, Source, lines, load};

fn told(text: &str) -> Vec<String> {
    lines(&load(&Source::new("c.toml", text)).map(|contract| contract.name).unwrap_err())
}

pub(super) fn check(text: &str, expected: &[&str]) {
    let told = told(text);
    assert_eq!(told, expected, "\n{}", told.join("\n"));
}

#[test]
fn all_errors_of_a_file_come_at_once_and_in_order() {
    check(
        r#"name = "two words"
register_role = "owner"
native_prefixes = ["/v1/auth", "v1", "/v1/{x}", "/v1/auth/", "/V1/Auth", "/"]

[ids]
user = "user"

[tokens]
access_ttl = "1500ms"
session_lifetime = "1s"

[keys]
prefix = "sk live_"
expires_after = "0s"
permissions = ["read:*", "*:read"]
rotation_overlap = "a day"

[schemes]
Bearer = []
bearer = ["token"]
"Api Key" = ["api_key"]

[password]
min_length = 0

[role.admin]
permissions = ["read posts"]

[plan.free]
limits = ["100/1h", "50/60m", "many"]
"#,
        &[
            "c.toml:1:8: name: a contract's name is 1 to 64 of the characters a-z A-Z 0-9 _ -\n    help: choose such a name",
            "c.toml:2:17: register_role: there is no role `owner`\n    help: only `admin` can stand here",
            "c.toml:3:32: native_prefixes[1]: `v1` is not a path prefix: literal segments or `{name}`, the last one literal\n    help: write a path such as `/api/v1/auth`",
            "c.toml:3:38: native_prefixes[2]: `/v1/{x}` is not a path prefix: literal segments or `{name}`, the last one literal\n    help: write a path such as `/api/v1/auth`",
            "c.toml:3:49: native_prefixes[3]: `/v1/auth/` is not a path prefix: literal segments or `{name}`, the last one literal\n    help: write a path such as `/api/v1/auth`",
            "c.toml:3:62: native_prefixes[4]: `/V1/Auth` stands twice\n    help: leave one of them out",
            "c.toml:3:74: native_prefixes[5]: `/` is not a path prefix: literal segments or `{name}`, the last one literal\n    help: write a path such as `/api/v1/auth`",
            "c.toml:6:8: ids.user: an id's prefix is at most 32 of the characters a-z A-Z 0-9 _ -, and ends with `_` or `-`\n    help: write `uuid`, or a prefix such as `user_`",
            "c.toml:9:14: tokens.access_ttl: a token lives whole seconds, at least one\n    help: write a length such as `1h`",
            "c.toml:10:20: tokens.session_lifetime: a session would end before its first token\n    help: make session_lifetime at least access_ttl",
            "c.toml:13:10: keys.prefix: a key's prefix is at most 32 of the characters a-z A-Z 0-9 _ -, and ends with `_` or `-`\n    help: write a prefix such as `vantage_`",
            "c.toml:14:17: keys.expires_after: a key would be dead when it is made\n    help: write a length such as `365d`, or leave it out",
            "c.toml:15:26: keys.permissions[1]: a permission is 1 to 128 of the characters a-z A-Z 0-9 . _ - : and may end in `*` after a colon\n    help: write a permission such as `read:posts`, `read:*` or `*`",
            "c.toml:16:20: keys.rotation_overlap: a length of time is a whole number and ms, s, m, h or d, at most 3653d\n    help: write a length such as `30m` or `7d`",
            "c.toml:19:1: schemes.Bearer: `Bearer` carries nothing\n    help: write [\"token\"], [\"api_key\"] or both",
            "c.toml:20:1: schemes.bearer: `bearer` stands twice: schemes ignore case\n    help: leave one of them out",
            "c.toml:21:1: schemes.\"Api Key\": not the name of an Authorization scheme\n    help: write a name such as `Bearer`",
            "c.toml:24:14: password.min_length: a password's least length is 1 to 128 characters\n    help: 8 is usual",
            "c.toml:27:16: role.admin.permissions[0]: a permission is 1 to 128 of the characters a-z A-Z 0-9 . _ - : and may end in `*` after a colon\n    help: write a permission such as `read:posts`, `read:*` or `*`",
            "c.toml:30:21: plan.free.limits[1]: two windows of one length: only the smaller would count\n    help: leave one of them out",
            "c.toml:30:31: plan.free.limits[2]: a window is `<limit>/<length>`, such as `100/1h` or `10/30s`: a whole number from 1, then 1 second to 366 days in s, m, h or d\n    help: write a window such as `100/1h`",
        ],
    );
}

#[test]
fn an_operation_is_held_against_what_it_takes_and_gives() {
    check(
        r#"name = "c"
native_prefixes = ["/auth"]

[[operation]]
do = "login"
on = "POST /auth/login"
reads = { identifer = "email", password = "", key_id = "k" }
plans = ["free"]
answer.body = { token = "$acces_token", key = "$key.secret", text = "a $user.naem" }

[[operation]]
do = "register"
on = "POST /auth/login"
reads = { email = "email", password = "password" }
answer = { status = 302, item = "$user.id" }

[[operation]]
do = "login"
on = "GET,POST /authentic/{user}/{password}/{*rest}"
reads = { identifier = "a", password = "b" }
answer = { status = 204, body = "$access_token" }

[[operation]]
do = "me"
on = "GET /auth/me"
reads = { email = "email" }

[[operation]]
do = "key_list"
on = "GET /auth/keys"
answer = { body = "$key.id" }

[[operation]]
do = "logout"
on = "post /auth/logout"

[[operation]]
do = "key_read"
on = "GET /auth/keys/{key_id}"
reads = { key_id = "id" }
roles = []
permissions = ["read:*", "read:{id}"]

[[operation]]
do = "key_revoke"
on = "DELETE /auth/keys/{id}"
"#,
        &[
            "c.toml:5:6: operation[0].do: `login` needs `identifier`\n    help: add `identifier = \"<its name in the body>\"` to `reads`, or `{identifier}` to the path",
            "c.toml:7:11: operation[0].reads.identifer: `login` knows no field `identifer`\n    help: did you mean `identifier`?",
            "c.toml:7:43: operation[0].reads.password: a field of a body has a name\n    help: write the name that the client sends",
            "c.toml:7:47: operation[0].reads.key_id: `login` does not take `key_id`\n    help: one of: identifier, password, device",
            "c.toml:8:9: operation[0].plans: `login` is for anyone: nobody is known yet whose role or plan could be asked\n    help: leave roles, plans and permissions out here",
            "c.toml:9:15: operation[0].answer.body: the answer of `login` holds no `$access_token`\n    help: add \"$access_token\" where the client looks for it",
            "c.toml:9:26: operation[0].answer.body.token: `login` has no slot `$acces_token`\n    help: did you mean `access_token`?",
            "c.toml:9:48: operation[0].answer.body.key: `login` does not give `$key.secret`\n    help: one of: user.id, user.email, user.username, user.name, user.role, user.email_verified, user.created_at, user.updated_at, org.id, org.name, plan, access_token, expires_in, session.id, refresh_token",
            "c.toml:9:72: operation[0].answer.body.text: `login` has no slot `$user.naem`\n    help: did you mean `user.name`?",
            "c.toml:13:6: operation[1].on: `login` already stands on this method and path\n    help: give each operation its own method or path",
            "c.toml:15:21: operation[1].answer.status: 302 is not a status of success\n    help: 200 to 299",
            "c.toml:15:33: operation[1].answer.item: `register` gives no list\n    help: leave `item` out",
            "c.toml:18:6: operation[2].do: `login` stands twice\n    help: serve it in one place",
            "c.toml:19:6: operation[2].on: `GET,POST`: an operation stands on one method\n    help: one of: GET, POST, PUT, PATCH, DELETE",
            "c.toml:19:6: operation[2].on: an operation's path has no `{*rest}`\n    help: name each segment: `{key_id}`",
            "c.toml:19:6: operation[2].on: the path is below no native prefix, so it could also be forwarded\n    help: add its prefix to native_prefixes; there are: /auth",
            "c.toml:19:6: operation[2].on: `login` takes no `{user}` from the path\n    help: only `identifier` can stand here",
            "c.toml:19:6: operation[2].on: `login` takes no `{password}` from the path\n    help: only `identifier` can stand here",
            "c.toml:19:6: operation[2].on: `login` takes no `{rest}` from the path\n    help: only `identifier` can stand here",
            "c.toml:20:29: operation[2].reads.password: `password` is read from the path\n    help: leave it out of `reads`",
            "c.toml:21:21: operation[2].answer.status: a 204 has no body\n    help: leave the body out, or answer 200",
            "c.toml:26:11: operation[3].reads.email: `me` does not take `email`\n    help: nothing can stand here",
            "c.toml:26:11: operation[3].reads.email: a GET has no body to read from\n    help: read it from the path: `{field}`",
            "c.toml:29:6: operation[4].do: `key_list` needs to know how keys are made\n    help: add a [keys] table with the keys' prefix",
            "c.toml:31:19: operation[4].answer.body: `key_list` gives a list, and `answer.item` is missing\n    help: add `item = { … }` to its answer",
            "c.toml:31:19: operation[4].answer.body: the answer of `key_list` holds no `$items`\n    help: add \"$items\" where the client looks for it",
            "c.toml:31:20: operation[4].answer.body: `key_list` does not give `$key.id`\n    help: only `items` can stand here",
            "c.toml:35:6: operation[5].on: `post` is not a method list: use `*` or names such as `GET,POST` (upper case, no spaces)\n    help: write it as `GET /v1/items/{id}`",
            "c.toml:38:6: operation[6].do: `key_read` needs to know how keys are made\n    help: add a [keys] table with the keys' prefix",
            "c.toml:40:11: operation[6].reads.key_id: `key_id` is read from the path\n    help: leave it out of `reads`",
            "c.toml:40:11: operation[6].reads.key_id: a GET has no body to read from\n    help: read it from the path: `{field}`",
            "c.toml:41:9: operation[6].roles: no role at all would pass\n    help: leave the list out for any role",
            "c.toml:42:16: operation[6].permissions[0]: `read:*` is not a permission that can be asked\n    help: write a permission such as `read:{key_id}`; the path has: key_id",
            "c.toml:42:26: operation[6].permissions[1]: `read:{id}` is not a permission that can be asked\n    help: write a permission such as `read:{key_id}`; the path has: key_id",
            "c.toml:45:6: operation[7].do: `key_revoke` needs to know how keys are made\n    help: add a [keys] table with the keys' prefix",
            "c.toml:45:6: operation[7].do: `key_revoke` needs `key_id`\n    help: add `key_id = \"<its name in the body>\"` to `reads`, or `{key_id}` to the path",
            "c.toml:46:6: operation[7].on: `key_revoke` takes no `{id}` from the path\n    help: one of: key_id, server_id",
        ],
    );
}

#[test]
fn a_guard_that_would_never_ask_or_never_pass_is_refused() {
    check(
        r#"name = "c"
native_prefixes = ["/v1/auth"]
[plan.free]
[plan.pro]
[[guard]]
match = "* /v1/AUTH/{*rest}"
[[guard]]
match = "GET /v1/{a}/x"
plans = ["por"]
permissions = ["read:{b}"]
[[guard]]
match = "HEAD,POST /v1/{b}/x"
roles = ["viewer"]
[[guard]]
match = "* /v1/{a}/x"
[[guard]]
match = "* /files/{*rest}"
permissions = ["read:{rest}", "a b"]
[[guard]]
match = "GET /a//b"
"#,
        &[
            "c.toml:6:9: guard[0].match: nothing below a native prefix is forwarded, so this guard would never ask\n    help: write roles, plans and permissions on the [[operation]]",
            "c.toml:9:10: guard[1].plans[0]: there is no plan `por`\n    help: did you mean `pro`?",
            "c.toml:10:16: guard[1].permissions[0]: `read:{b}` is not a permission that can be asked\n    help: write a permission such as `read:{a}`; the path has: a",
            "c.toml:12:9: guard[2].match: a guard on these methods and this path stands above\n    help: make one guard of the two",
            "c.toml:13:10: guard[2].roles[0]: there is no role `viewer`\n    help: only `member` can stand here",
            "c.toml:18:16: guard[4].permissions[0]: `{*…}` may be several segments and names no permission\n    help: write a permission such as `read:posts`; the path has no `{name}`",
            "c.toml:18:31: guard[4].permissions[1]: `a b` is not a permission that can be asked\n    help: write a permission such as `read:posts`; the path has no `{name}`",
            "c.toml:20:9: guard[5].match: `/a//b` is not a path pattern: it starts with `/`, its segments are literal text or one whole `{name}`, and `{*name}` stands last\n    help: write it as `GET /v1/items/{id}`",
        ],
    );
}

#[test]
fn a_problem_may_say_only_what_it_knows() {
    check(
        r#"name = "c"
[problem]
body = { detail = "$message", plans = "$plans", details = "see $details" }
[problem.not_found]
message = "no $reasons"
status = 200
[problem.plan_required]
body = { p = "$plans", when = 2025-01-15, n = inf, t = "$access_token" }
[problem.token_expird]
"#,
        &[
            "c.toml:3:40: problem.body.plans: the body that all problems share does not give `$plans`\n    help: one of: code, message, details",
            "c.toml:3:64: problem.body.details: `$details` is a list or an object and cannot stand inside a text\n    help: write it alone: \"$details\"",
            "c.toml:5:15: problem.not_found.message: `not_found` does not give `$reasons`\n    help: nothing can stand here",
            "c.toml:6:10: problem.not_found.status: 200 is not a status of refusal\n    help: 400 to 599",
            "c.toml:8:31: problem.plan_required.body.when: JSON has no dates\n    help: put the date in quotes",
            "c.toml:8:47: problem.plan_required.body.n: JSON has no infinite number and no NaN\n    help: write a finite number",
            "c.toml:8:57: problem.plan_required.body.t: `plan_required` does not give `$access_token`\n    help: one of: code, message, details, plans",
            "c.toml:9:10: problem.token_expird: unknown key `token_expird`\n    help: did you mean `token_expired`?",
        ],
    );
}

#[test]
fn what_serde_sees_comes_with_its_remedy() {
    check(
        r#"nmae = "c"
[[operation]]
do = "logn"
on = 5
[[operation]]
on = "GET /x"
answr = {}
[schemes]
Bearer = ["tokens"]
"#,
        &[
            "c.toml:1:1: nmae: unknown key `nmae`\n    help: did you mean `name`?",
            "c.toml:3:6: operation[0].do: unknown value `logn`\n    help: did you mean `login`?",
            "c.toml:4:6: operation[0].on: expected a string, found an integer\n    help: write a string in quotes",
            "c.toml:5:1: operation[1].do: missing\n    help: add `do = …` here",
            "c.toml:7:1: operation[1].answr: unknown key `answr`\n    help: did you mean `answer`?",
            "c.toml:9:11: schemes.Bearer[0]: unknown value `tokens`\n    help: did you mean `token`?",
        ],
    );
}

#[test]
fn more_than_64_roles_or_plans_are_refused_and_64_are_not() {
    let roles = |count: usize| {
        (0..count).fold(LEAST.to_owned(), |text, at| text + &format!("[role.r{at}]\npermissions = []\n[plan.p{at}]\n"))
    };
    assert_eq!(super::compiled(&roles(64)).roles.len(), 64);
    check(
        &roles(65),
        &[
            "c.toml:194:7: role.r64: more than 64 roles\n    help: keep to 64 roles",
            "c.toml:196:7: plan.p64: more than 64 plans\n    help: keep to 64 plans",
        ],
    );
}

#[test]
fn a_user_operation_needs_a_scheme_that_carries_its_token() {
    check(
        "name = 'c'\nnative_prefixes = ['/a']\n[keys]\nprefix = 'k_'\n[schemes]\nApiKey = ['api_key']\n\
         [[operation]]\ndo = 'logout'\non = 'POST /a/logout'\n",
        &[
            "c.toml:8:6: operation[0].do: `logout` is for signed-in users, and no scheme carries a token\n    help: add `Bearer = [\"token\"]` to [schemes]",
        ],
    );
    check(
        "name = 'c'\n[schemes]\nBearer = ['token', 'api_key']\n",
        &[
            "c.toml:3:20: schemes.Bearer[1]: the product has no API keys\n    help: add a [keys] table, or leave `api_key` out",
        ],
    );
}
