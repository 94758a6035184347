//! Plays a product page's own code samples against a gateway: real Python, Node.js and curl.
//!
//! The samples stand in `tests/samples/<product>/` (its README tells what each file is). Of their text only
//! the origin and the page's placeholders are replaced; the certificate authority comes by the environment.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// How long one sample may take: it makes two requests to this machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A language that pages show samples in.
struct Language {
    /// The ending of `sample.…` and `check.…`.
    ending: &'static str,
    /// What runs it; a variable may name another program.
    program: &'static str,
    program_variable: &'static str,
    arguments: &'static [&'static str],
    /// What stands before the sample, and behind its check.
    prelude: &'static str,
    postlude: &'static str,
}

const LANGUAGES: [Language; 4] = [
    Language {
        ending: "py",
        program: "python3",
        program_variable: "TOLLGATE_TEST_PYTHON",
        arguments: &[],
        prelude: "",
        postlude: "",
    },
    Language {
        ending: "mjs",
        program: "node",
        program_variable: "TOLLGATE_TEST_NODE",
        arguments: &[],
        prelude: "",
        postlude: "",
    },
    // With `require` there is no `await` outside a function.
    Language {
        ending: "cjs",
        program: "node",
        program_variable: "TOLLGATE_TEST_NODE",
        arguments: &[],
        prelude: "(async () => {\n",
        postlude: "\n})().catch((error) => { console.error(error); process.exit(1); });\n",
    },
    Language {
        ending: "sh",
        program: "bash",
        program_variable: "TOLLGATE_TEST_BASH",
        arguments: &["-eu", "-o", "pipefail"],
        prelude: "answers=answers statuses=statuses; exec >$answers 2>$statuses\n",
        postlude: "",
    },
];

/// Runs every sample of `product`, one after the other, against the gateway at `base_url`
/// (`https://localhost:8443`), whose certificate is signed by `ca_pem`.
///
/// `substitutions` fill in the page's placeholders (`("<your_token>", token)`); each has to occur in a sample.
/// `Err` tells of every sample that failed what it printed. A language that this machine lacks is skipped
/// with a message, or an error where `TOLLGATE_TEST_REQUIRE_BACKENDS` is set. Blocks: not for a runtime's worker.
pub fn run_samples(product: &str, base_url: &str, ca_pem: &Path, substitutions: &[(&str, &str)]) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(product);
    // Code that calls through an SDK names no origin: the stand-in for it reads `SAMPLE_ORIGIN`.
    let sdk = Some(folder.join("sdk")).filter(|sdk| sdk.exists());
    let origin = if sdk.is_some() { None } else { Some(read(&folder.join("origin"))?.trim().to_owned()) };
    let mut failures = String::new();
    let mut samples = String::new();
    for language in &LANGUAGES {
        let file = folder.join(format!("sample.{}", language.ending));
        if !file.exists() {
            continue;
        }
        let sample = read(&file)?;
        samples.push_str(&sample);
        let check = read(&file.with_file_name(format!("check.{}", language.ending)))?;
        let mut text = match &origin {
            Some(origin) if !sample.contains(origin) => {
                return Err(format!("{} does not call {origin}", file.display()));
            }
            Some(origin) => sample.replace(origin, base_url),
            None => sample,
        };
        for (placeholder, value) in substitutions {
            text = text.replace(placeholder, value);
        }
        let program = format!("{}{text}\n{check}{}", language.prelude, language.postlude);
        if let Err(failure) = run(language, &program, ca_pem, base_url, sdk.as_deref()) {
            let _ = writeln!(failures, "{}: {failure}", file.display());
        }
    }
    if samples.is_empty() {
        return Err(format!("{} holds no sample", folder.display()));
    }
    if let Some((placeholder, _)) = substitutions.iter().find(|(placeholder, _)| !samples.contains(placeholder)) {
        return Err(format!("no sample of {product} holds {placeholder}"));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Runs one program to its end in a folder of its own.
fn run(language: &Language, text: &str, ca_pem: &Path, base_url: &str, sdk: Option<&Path>) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).map_err(|error| format!("{name}: {error}"));
    let output = |name: &str| File::create(at(name)).map_err(|error| format!("{name}: {error}"));
    let ca = ca_pem.canonicalize().map_err(|error| format!("{}: {error}", ca_pem.display()))?;
    let script = format!("sample.{}", language.ending);
    write(&script, text)?;
    // What a customer would put there once: curl has no variable for most of its options.
    write(
        ".curlrc",
        &format!(
            "cacert = \"{}\"\nsilent\nshow-error\nmax-time = 30\nnoproxy = \"*\"\n\
             write-out = \"\\n%{{stderr}}%{{http_code}} %{{url_effective}}\\n\"\n",
            ca.display()
        ),
    )?;

    let program = std::env::var_os(language.program_variable).unwrap_or_else(|| language.program.into());
    let mut command = Command::new(&program);
    if let Some(sdk) = sdk {
        command.env("SAMPLE_ORIGIN", base_url).env("PYTHONPATH", sdk).env("NODE_PATH", sdk);
    }
    let spawned = command
        .args(language.arguments)
        .arg(&script)
        .current_dir(folder.path())
        .env("REQUESTS_CA_BUNDLE", &ca)
        .env("NODE_EXTRA_CA_CERTS", &ca)
        // Node.js before 20 tries only the first address of `localhost`, and a test server has the IPv4 one.
        .env("NODE_OPTIONS", "--dns-result-order=ipv4first")
        .env("CURL_HOME", folder.path())
        .env_remove("CURL_CA_BUNDLE")
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env("no_proxy", "localhost,127.0.0.1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(output("stdout")?)
        .stderr(output("stderr")?)
        .spawn();
    let status = match spawned {
        Ok(child) => finish(child)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required() => {
            eprintln!("skipped: {script}, because there is no {}", program.display());
            return Ok(());
        }
        Err(error) => return Err(format!("{}: {error}", program.display())),
    };
    if status.success() {
        return Ok(());
    }
    let mut told = format!("{status}\n");
    for name in ["stdout", "stderr", "answers", "statuses"] {
        let text = fs::read_to_string(at(name)).unwrap_or_default();
        if !text.trim().is_empty() {
            let _ = writeln!(told, "  {name}:\n{}", text.trim_end());
        }
    }
    Err(told)
}

/// Whether a test that lacks what it needs fails instead of being skipped.
fn required() -> bool {
    std::env::var_os("TOLLGATE_TEST_REQUIRE_BACKENDS").is_some()
}

/// Waits for the child's end, and ends it when it takes too long.
fn finish(mut child: std::process::Child) -> Result<ExitStatus, String> {
    const STEP: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < PATIENCE {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        sleep(STEP);
        waited += STEP;
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("still running after {} seconds", PATIENCE.as_secs()))
}

fn read(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The runner itself, against a server that answers just enough, rightly or wrongly.
#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;

    const TOKEN: &str = "header.claims.signature";

    #[test]
    fn samples_pass_against_an_honest_server_over_tls() {
        let server = Server::start(200);
        run_samples("vantage", &server.url, &server.ca, &[("<your_token>", TOKEN)]).unwrap();
    }

    #[test]
    fn every_sample_tells_of_a_refusal() {
        let server = Server::start(403);
        let told = run_samples("vantage", &server.url, &server.ca, &[("<your_token>", TOKEN)]).unwrap_err();
        assert_names_all(&told);
        assert_eq!(told.matches("Insufficient permissions").count(), 3, "{told}");
    }

    #[test]
    fn a_placeholder_left_unfilled_fails_the_sample_that_has_it() {
        let server = Server::start(200);
        let told = run_samples("vantage", &server.url, &server.ca, &[]).unwrap_err();
        assert!(told.contains("sample.sh: ") && !told.contains("sample.py: "), "{told}");
    }

    #[test]
    fn samples_do_not_trust_another_authority() {
        let (server, other) = (Server::start(200), Server::start(200));
        let told = run_samples("vantage", &server.url, &other.ca, &[("<your_token>", TOKEN)]).unwrap_err();
        assert_names_all(&told);
        assert!(told.contains("certificate"), "{told}");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let ca = Path::new("Cargo.toml");
        assert!(run_samples("nobody", "https://localhost:1", ca, &[]).is_err());
        let told = run_samples("vantage", "https://localhost:1", ca, &[("<other>", "x")]).unwrap_err();
        assert!(told.contains("<other>"), "{told}");
    }

    fn assert_names_all(told: &str) {
        for sample in ["vantage/sample.py: ", "vantage/sample.mjs: ", "vantage/sample.sh: "] {
            assert!(told.contains(sample), "{sample} is missing in:\n{told}");
        }
    }

    struct Server {
        url: String,
        ca: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Server {
        /// Signs anybody in; answers `/api/v1/posts` with `status` to who shows the token, 401 to others.
        fn start(status: u16) -> Self {
            let mut params = CertificateParams::new([]).expect("no names");
            // Another name than the leaf's, which would pass for self-signed otherwise.
            params.distinguished_name.push(DnType::CommonName, "Test authority");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs");
            let key = KeyPair::generate().expect("a key");
            let leaf = CertificateParams::new(["localhost".to_owned()]).expect("a name");
            let leaf = leaf.signed_by(&key, &issuer).expect("signs");

            let folder = tempfile::tempdir().expect("a folder");
            let ca = folder.path().join("ca.pem");
            fs::write(&ca, issuer.pem()).expect("writes");
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
                .expect("a matching key");
            let config = Arc::new(config);

            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
            // Ends with the test's process.
            thread::spawn(move || {
                for socket in listener.incoming().flatten() {
                    let config = Arc::clone(&config);
                    thread::spawn(move || serve(config, socket, status));
                }
            });
            Self { url, ca, _folder: folder }
        }
    }

    /// One request a connection.
    fn serve(config: Arc<ServerConfig>, socket: TcpStream, status: u16) -> Option<()> {
        let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, socket);
        let mut request = Vec::new();
        let head = loop {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).ok().filter(|&count| count > 0)?;
            request.extend_from_slice(&bytes[..count]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().ok()? {
                break head;
            }
        };
        let login = format!(r#"{{"access_token":"{TOKEN}","token_type":"bearer","expires_in":3600}}"#);
        let (status, body) = if head.starts_with("post /api/v1/auth/login ") {
            (200, login.as_str())
        } else if !head.contains(&format!("authorization: bearer {TOKEN}")) {
            (401, r#"{"detail":"Could not validate credentials"}"#)
        } else if status == 200 {
            (200, r#"{"posts":[]}"#)
        } else {
            (status, r#"{"detail":"Insufficient permissions"}"#)
        };
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             X-RateLimit-Limit: 100\r\nX-RateLimit-Remaining: 99\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        stream.conn.send_close_notify();
        stream.flush().ok()
    }
}
