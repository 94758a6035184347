//! Configurations that nobody had to write: as text, read on the same way as a file.

use std::net::SocketAddr;
use std::path::Path;

/// Where a written-down configuration listens and keeps its things.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where TLS is terminated.
    pub https: SocketAddr,
    /// Where the operator is served.
    pub admin: SocketAddr,
    /// Where the database and the secrets are kept: `data`.
    pub data: &'a Path,
    /// Where development certificates are kept: `certs`.
    pub certs: &'a Path,
}

impl Default for Place<'static> {
    /// On this machine alone, below the working directory.
    fn default() -> Self {
        Self {
            https: SocketAddr::from(([127, 0, 0, 1], 8443)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            data: Path::new("data"),
            certs: Path::new("certs"),
        }
    }
}

/// `tollgate serve --upstream URL`: one product in front of one backend, for whatever host is asked.
pub fn for_upstream(url: &str, place: &Place<'_>) -> String {
    one_site("gateway", url, &["*"], place)
}

/// `tollgate demo`: the same, at the hosts that its certificate names.
pub fn demo(url: &str, place: &Place<'_>) -> String {
    one_site("demo", url, &["localhost", "127.0.0.1", "[::1]"], place)
}

fn one_site(name: &str, url: &str, hosts: &[&str], place: &Place<'_>) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| quoted(host)).collect();
    let file = |path: &str| quoted(&place.data.join(path).display().to_string());
    let store = quoted(&format!("sqlite://{}", place.data.join("tollgate.db").display()));
    format!(
        r#"[listen]
https = "{https}"
admin = "{admin}"

[admin]
token_file = {admin_token}
generate = true

[tls]
development = true
directory = {certs}

[store]
url = {store}

[mail]
transport = "outbox"
outbox = {outbox}

[[site]]
name = "{name}"
contract = "vantage"
hosts = [{hosts}]

[site.tokens]
issuer = "https://localhost"
keys = [{{ kid = "1", algorithm = "HS256", secret_file = {token_key}, generate = true }}]

[site.api_keys]
pepper_file = {pepper}
generate = true

[site.upstream.app]
servers = [{url}]

[[site.route]]
match = "* /{{*rest}}"
upstream = "app"
"#,
        https = place.https,
        admin = place.admin,
        admin_token = file("secrets/admin"),
        outbox = file("outbox"),
        certs = quoted(&place.certs.display().to_string()),
        hosts = hosts.join(", "),
        token_key = file("secrets/tokens"),
        pepper = file("secrets/pepper"),
        url = quoted(url),
    )
}

/// The text as a TOML string that stands for itself: no variable is looked for in it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}
