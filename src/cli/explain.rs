//! `tollgate explain`: asks the running gateway what would become of a request, and why. Nothing is sent to a backend
//! and nothing is spent; the decision is the gateway's own (`edge::explain`).

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use http::{Method, Uri};
use serde_json::{Value, json};

use super::{ConfigFile, operate, say};

/// What was asked is no request: as clap says it of flags.
const BAD_ARGUMENTS: u8 = 2;

/// The request would be refused.
const REFUSED: u8 = 3;

/// The most of a request that is read from standard input, in bytes.
const MOST: u64 = 64 * 1024;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The method; without method and URL a request (its head) is read from standard input: as it stands on the wire, as
    /// `curl -v` prints it, or as a browser shows that of HTTP/2 (`:method: GET`).
    #[arg(requires = "url")]
    method: Option<String>,
    /// Where to: `https://api.example.com/v1/posts`, or without a scheme; `http://` for the plain listener.
    url: Option<String>,
    /// A header, as curl takes them: `-H 'Authorization: Bearer …'`. `@FILE` reads one a line.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", requires = "url")]
    headers: Vec<String>,
    /// The address that it comes from: a client, or a trusted proxy. [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// It comes by HTTP/2.
    #[arg(long, requires = "url")]
    http2: bool,
    /// Print JSON instead of lines.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let asked = if let (Some(method), Some(url)) = (&arguments.method, &arguments.url) {
        from_flags(method, url, &arguments.headers, arguments.http2)
    } else {
        let mut raw = Vec::new();
        std::io::stdin().take(MOST + 1).read_to_end(&mut raw).context("reading the request")?;
        from_text(&raw)
    };
    let mut request = match asked {
        Ok(request) => request,
        Err(error) => {
            eprintln!("tollgate: {error:#}");
            return Ok(ExitCode::from(BAD_ARGUMENTS));
        }
    };
    request["client"] = json!(arguments.client);
    let loaded = match super::Reading::to_look().load(&arguments.file.config) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(super::check::complain(&arguments.file.config, &errors)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reply = runtime.block_on(operate::ask_running(&loaded, &Method::POST, "/v1/explain", Some(&request)))?;
    let Some(reply) = reply else {
        bail!(
            "no gateway answers at the admin address ([listen] admin): only one that runs knows its windows and sessions"
        );
    };
    if reply.status != 200 {
        bail!("{}", reply.body.get("error").and_then(Value::as_str).unwrap_or("the gateway refused"));
    }
    if arguments.json {
        say!("{:#}", reply.body);
    } else {
        print(&reply.body)?;
    }
    Ok(if reply.body["passes"] == json!(true) { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// What curl would send for the same words.
fn from_flags(method: &str, url: &str, headers: &[String], http2: bool) -> anyhow::Result<Value> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = whole.parse().with_context(|| format!("`{url}` is no URL"))?;
    let tls = match uri.scheme_str() {
        Some("https" | "wss") => true,
        Some("http" | "ws") => false,
        _ => bail!("`{url}`: https:// and http:// are served"),
    };
    let host = uri.authority().with_context(|| format!("`{url}` names no host"))?;
    // What it holds would be a credential in its own right, and no client sends it as such.
    anyhow::ensure!(!host.as_str().contains('@'), "a URL with a user: give the credential with -H 'Authorization: …'");
    let mut lines = Vec::new();
    for header in headers {
        match header.strip_prefix('@') {
            None => lines.push(header.clone()),
            Some(file) => {
                let text = std::fs::read_to_string(file).with_context(|| format!("reading headers from {file}"))?;
                lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            }
        }
    }
    let mut pairs = Vec::new();
    for line in &lines {
        let Some((name, value)) = line.split_once(':') else {
            // Not repeated here: it may be a token with its name forgotten.
            bail!("a header is `Name: value`");
        };
        pairs.push((name.trim(), value.trim()));
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if http2 {
        anyhow::ensure!(tls, "`{url}`: HTTP/2 is served by TLS alone");
        return Ok(of_http2(method, host.as_str(), target, &pairs));
    }
    if !pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        pairs.insert(0, ("host", host.as_str()));
    }
    Ok(json!({ "method": method, "target": target, "headers": pairs, "tls": tls }))
}

/// HTTP/2 says the host in the target, and names in lower case.
fn of_http2(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Value {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
    let target = format!("https://{host}{target}");
    json!({ "method": method, "target": target, "headers": headers, "tls": true, "http": "2" })
}

/// A request as it stands on the wire, or in a capture of one; a body is left out.
fn from_text(raw: &[u8]) -> anyhow::Result<Value> {
    anyhow::ensure!(raw.len() as u64 <= MOST, "a request's head of more than {MOST} bytes");
    anyhow::ensure!(!raw.is_empty(), "name a method and a URL, or write a request to standard input");
    let mut whole = as_sent(raw);
    if whole.starts_with(b":") {
        return from_fields(std::str::from_utf8(&whole).context("standard input is not UTF-8 text")?);
    }
    let end = whole.iter().position(|byte| *byte == b'\n').unwrap_or(whole.len());
    let first = whole[..end].trim_ascii_end();
    let http10 = first.ends_with(b" HTTP/1.0");
    let version = [&b" HTTP/2"[..], b" HTTP/2.0"].into_iter().find(|version| first.ends_with(version));
    let http2 = version.map(|version| first.len() - version.len()..first.len());
    if let Some(version) = http2.clone() {
        // As `curl -v` writes it: for the eye; there is no such line on the wire.
        whole.splice(version, *b" HTTP/1.1");
    }
    // Pasted text may have lost its empty line.
    whole.extend_from_slice(b"\r\n\r\n");
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&whole).context("standard input holds no HTTP/1.1 request")?;
    let (true, Some(method), Some(target)) = (parsed.is_complete(), request.method, request.path) else {
        bail!("standard input holds no whole HTTP/1.1 request");
    };
    let mut headers = Vec::new();
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).with_context(|| format!("{} is not UTF-8 text", field.name))?;
        headers.push((field.name, value));
    }
    if http2.is_some() {
        let hosts = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("host"));
        let (_, host) = headers.remove(hosts.context("the request names no host")?);
        return Ok(of_http2(method, host, target, &headers));
    }
    let version = if http10 { "1.0" } else { "1.1" };
    Ok(json!({ "method": method, "target": target, "headers": headers, "tls": true, "http": version }))
}

/// Of `curl -v` what it sent: the lines that begin with `>`.
fn as_sent(raw: &[u8]) -> Vec<u8> {
    let mut lines = raw.split_inclusive(|byte| *byte == b'\n');
    if !lines.clone().any(|line| line.starts_with(b"> ")) {
        return raw.to_vec();
    }
    // The first request alone, up to the line that is empty: a redirection or a connection kept has others.
    let mut sent = Vec::new();
    for line in lines.by_ref().filter_map(|line| line.strip_prefix(b">")) {
        let line = line.strip_prefix(b" ").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            break;
        }
        sent.extend_from_slice(line);
    }
    sent
}

/// A request of HTTP/2 as a browser shows it: a field a line, the first ones `:method`, `:authority`, `:path`.
fn from_fields(text: &str) -> anyhow::Result<Value> {
    let (mut own, mut headers) = (BTreeMap::new(), Vec::new());
    for line in text.lines().map(str::trim).take_while(|line| !line.is_empty()) {
        let (pseudo, rest) = line.strip_prefix(':').map_or((false, line), |rest| (true, rest));
        let (name, value) = rest.split_once(':').context("a field is `name: value`")?;
        if pseudo {
            own.insert(name.trim(), value.trim());
        } else {
            headers.push((name.trim(), value.trim()));
        }
    }
    let of = |name: &str| own.get(name).with_context(|| format!("the request has no `:{name}`"));
    Ok(of_http2(of("method")?, of("authority")?, of("path")?, &headers))
}

/// Without a frame: lines are longer than a terminal is wide, and a frame would be broken over all of them.
fn print(told: &Value) -> std::io::Result<()> {
    for (name, value) in told.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Array(rows) => {
                for (at, row) in rows.iter().enumerate() {
                    say!("{:<19} {}", if at == 0 { name.as_str() } else { "" }, line(row));
                }
            }
            value => say!("{name:<19} {}", line(value)),
        }
    }
    Ok(())
}

/// One line for a person; what clients chose moves no terminal.
fn line(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        Value::Array(parts) if matches!(parts.as_slice(), [Value::String(_), Value::String(_)]) => {
            parts.iter().map(line).collect::<Vec<_>>().join(": ")
        }
        Value::Array(parts) => parts.iter().map(line).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let told = fields.iter().filter(|(_, value)| !matches!(value, Value::Null));
            told.map(|(name, value)| format!("{name} {}", line(value))).collect::<Vec<_>>().join(" · ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_what_curl_would_send() {
        let told = from_flags("GET", "api.example.com:8443/a%2e/b?x=1", &["X-A:  b ".to_owned()], false).unwrap();
        let headers = json!([["host", "api.example.com:8443"], ["X-A", "b"]]);
        assert_eq!(told, json!({ "method": "GET", "target": "/a%2e/b?x=1", "headers": headers, "tls": true }));
        let told = from_flags("GET", "http://localhost", &["Host: other".to_owned()], false).unwrap();
        assert_eq!(told, json!({ "method": "GET", "target": "/", "headers": [["Host", "other"]], "tls": false }));
        for bad in ["ftp://a/", "https://user:secret@a/", "https:///a", ""] {
            assert!(from_flags("GET", bad, &[], false).is_err(), "{bad}");
        }
        let told = from_flags("GET", "a.example/b?c", &["X-A: b".to_owned()], true).unwrap();
        let wanted = json!({
            "method": "GET", "target": "https://a.example/b?c", "headers": [["x-a", "b"]], "tls": true, "http": "2"
        });
        assert_eq!(told, wanted);
        assert!(from_flags("GET", "http://a.example/", &[], true).is_err());
        let error = from_flags("GET", "a/", &["eyJhbGciOi.a.b".to_owned()], false).unwrap_err();
        assert!(!error.to_string().contains("eyJ"), "{error}");
    }

    #[test]
    fn a_raw_request_is_read_as_it_stands() {
        let headers = [["Host", "h"], ["X", "1"]];
        let wanted = json!({ "method": "POST", "target": "/a", "headers": headers, "tls": true, "http": "1.1" });
        for raw in ["POST /a HTTP/1.1\r\nHost: h\r\nX: 1\r\n\r\nbody", "POST /a HTTP/1.1\nHost: h\nX: 1\n"] {
            assert_eq!(from_text(raw.as_bytes()).unwrap(), wanted, "{raw}");
        }
        let old = from_text(b"GET /a HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((&old["http"], &old["headers"]), (&json!("1.0"), &json!([])));
        for raw in
            ["", "nonsense", "GET / HTTP/1.1\r\nbad header\r\n", "GET / HTTP/2\r\nx: y\r\n", ":method: GET", ":x"]
        {
            assert!(from_text(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn what_curl_and_browsers_show_is_read_as_what_was_sent() {
        let seen = "* Connected to a.example (192.0.2.1) port 443\n\
                    > GET /b?c HTTP/2\r\n> Host: a.example\r\n> X-A: b\r\n> \r\n< HTTP/2 401 \r\n< x-a: no\r\n\
                    > GET /second HTTP/2\r\n> Host: b.example\r\n>\r\n";
        let wanted = json!({
            "method": "GET", "target": "https://a.example/b?c", "headers": [["x-a", "b"]], "tls": true, "http": "2"
        });
        assert_eq!(from_text(seen.as_bytes()).unwrap(), wanted);
        let shown = ":authority: a.example\n:method: GET\n:path: /b?c\n:scheme: https\nX-A: b\n\nbody: no\n";
        assert_eq!(from_text(shown.as_bytes()).unwrap(), wanted);
        let older = from_text(b"> GET /b HTTP/1.1\r\n> Host: a.example\r\n> \r\n* and so on\r\n").unwrap();
        assert_eq!((&older["http"], &older["headers"]), (&json!("1.1"), &json!([["Host", "a.example"]])));
    }
}
