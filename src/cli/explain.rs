//! `tollgate explain`: asks the running gateway what would become of a request, and why. Nothing is sent to a backend
//! and nothing is spent; the decision is the gateway's own (`edge::explain`).

use std::io::Read;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use http::{Method, Uri};
use serde_json::{Value, json};

use super::{ConfigFile, operate, say};

/// The request would be refused.
const REFUSED: u8 = 3;

/// The most of a request that is read from standard input, in bytes.
const MOST: u64 = 64 * 1024;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The method; without method and URL a raw request (its head) is read from standard input.
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
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut request = if let (Some(method), Some(url)) = (&arguments.method, &arguments.url) {
        from_flags(method, url, &arguments.headers)?
    } else {
        let mut raw = Vec::new();
        std::io::stdin().take(MOST + 1).read_to_end(&mut raw).context("reading the request")?;
        from_text(&raw)?
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
fn from_flags(method: &str, url: &str, headers: &[String]) -> anyhow::Result<Value> {
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
    if !pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        pairs.insert(0, ("host", host.as_str()));
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Ok(json!({ "method": method, "target": target, "headers": pairs, "tls": tls }))
}

/// A request as it stands on the wire, or in a capture of one; a body is left out.
fn from_text(raw: &[u8]) -> anyhow::Result<Value> {
    anyhow::ensure!(raw.len() as u64 <= MOST, "a request's head of more than {MOST} bytes");
    anyhow::ensure!(!raw.is_empty(), "name a method and a URL, or write a request to standard input");
    // Pasted text may have lost its empty line.
    let mut whole = raw.to_vec();
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
    Ok(json!({ "method": method, "target": target, "headers": headers, "tls": true }))
}

fn print(told: &Value) -> std::io::Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    for (name, value) in told.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Array(rows) => {
                for (at, row) in rows.iter().enumerate() {
                    table.add_row([if at == 0 { name.as_str() } else { "" }.to_owned(), line(row)]);
                }
            }
            value => {
                table.add_row([name.clone(), line(value)]);
            }
        }
    }
    say!("{table}");
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
        let told = from_flags("GET", "api.example.com:8443/a%2e/b?x=1", &["X-A:  b ".to_owned()]).unwrap();
        let headers = json!([["host", "api.example.com:8443"], ["X-A", "b"]]);
        assert_eq!(told, json!({ "method": "GET", "target": "/a%2e/b?x=1", "headers": headers, "tls": true }));
        let told = from_flags("GET", "http://localhost", &["Host: other".to_owned()]).unwrap();
        assert_eq!(told, json!({ "method": "GET", "target": "/", "headers": [["Host", "other"]], "tls": false }));
        for bad in ["ftp://a/", "https://user:secret@a/", "https:///a", ""] {
            assert!(from_flags("GET", bad, &[]).is_err(), "{bad}");
        }
        let error = from_flags("GET", "a/", &["eyJhbGciOi.a.b".to_owned()]).unwrap_err();
        assert!(!error.to_string().contains("eyJ"), "{error}");
    }

    #[test]
    fn a_raw_request_is_read_as_it_stands() {
        let wanted = json!({ "method": "POST", "target": "/a", "headers": [["Host", "h"], ["X", "1"]], "tls": true });
        for raw in ["POST /a HTTP/1.1\r\nHost: h\r\nX: 1\r\n\r\nbody", "POST /a HTTP/1.1\nHost: h\nX: 1\n"] {
            assert_eq!(from_text(raw.as_bytes()).unwrap(), wanted, "{raw}");
        }
        for raw in ["", "nonsense", "GET / HTTP/1.1\r\nbad header\r\n"] {
            assert!(from_text(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }
}
