//! Commands that answer and end: what they print, what they leave behind, and what their exit status says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use super::process::{run, run_by, told, tollgate};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

#[tokio::test]
async fn a_good_configuration_is_said_to_be_good_and_nothing_is_left_behind() {
    let folder = folder();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
    let said = told(folder.path(), &["check", "--config", file]).await;
    assert_eq!(said.err, "");
    let out = said.good();
    assert!(out.starts_with(&format!("{file} is good\n")), "{out}");
    assert!(out.contains("site vantage: contract vantage, hosts api.vantageai.com, localhost"), "{out}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
    // The variable stands for the flag, as the help says.
    let mut command = tollgate(folder.path());
    command.arg("check").env("TOLLGATE_CONFIG", file);
    run(command).await.good();
}

#[tokio::test]
async fn a_bad_configuration_is_told_all_at_once_with_place_and_remedy() {
    let folder = folder();
    let text = fs::read_to_string("tests/config/everything.toml").expect("a bad file");
    fs::write(folder.path().join("bad.toml"), text).expect("a file");
    let said = told(folder.path(), &["check", "--config", "bad.toml"]).await;
    assert_eq!(said.out, "");
    let err = said.bad(78);
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("bad.toml:")).collect();
    assert!(errors.len() >= 10, "{err}");
    for error in &errors {
        let mut parts = error.splitn(4, ':').skip(1);
        let mut number = || parts.next().expect("a part").parse::<u32>().expect("a number");
        assert!(number() > 0 && number() > 0, "no line and column: {error}");
    }
    assert_eq!(err.matches("\n    help: ").count(), errors.len(), "a remedy each: {err}");
    assert!(err.contains("bad.toml:4:9: listen.https: `8443` is not an address to listen on\n"), "{err}");
    assert!(err.ends_with(&format!("bad.toml cannot be used: {} errors\n", errors.len())), "{err}");
    assert_eq!(names(folder.path()), ["bad.toml"]);

    // The same file is refused by whoever would use it.
    for command in ["serve", "users list"] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--config", "bad.toml"]);
        assert!(told(folder.path(), &arguments).await.bad(78).contains("bad.toml:4:9: "), "{command}");
        assert_eq!(names(folder.path()), ["bad.toml"]);
    }
}

#[tokio::test]
async fn what_only_a_start_would_find_is_found_by_the_check() {
    let folder = folder();
    let shipped = fs::read_to_string("config/gateway.toml").expect("the configuration that ships");
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        fs::write(folder.path().join(format!("{name}.pem")), made.cert.pem()).expect("a file");
        fs::write(folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).expect("a file");
    };
    pair("one");
    pair("two");
    let tls = |key: &str| {
        let pair = format!("[[tls.certificate]]\ncertificate = \"one.pem\"\nkey = \"{key}.key\"\n");
        shipped.replace("development = true\n", &pair)
    };
    let store = |url: &str| shipped.replace("sqlite://data/tollgate.db", url);
    for (text, part) in [
        (tls("two"), "[tls] "),
        (store("postgres://u:hunter2@localhost:notaport/db"), "[store] "),
        (store("sqlite://"), "[store] "),
        (shipped.replace("[limits]\n", "[limits]\nredis_url = \"redis://localhost:99999\"\n"), "[limits] "),
    ] {
        assert_ne!(text, shipped, "{part}");
        fs::write(folder.path().join("bad.toml"), text).expect("a file");
        let err = told(folder.path(), &["check", "--config", "bad.toml"]).await.bad(78);
        assert!(err.starts_with(part) && err.contains("cannot be used: 1 error") && !err.contains("hunter2"), "{err}");
    }
    fs::write(folder.path().join("good.toml"), tls("one")).expect("a file");
    told(folder.path(), &["check", "--config", "good.toml"]).await.good();
    // A file that would be passed over is no file to be silent about.
    let both = ["serve", "--upstream", "http://127.0.0.1:9", "--config", "good.toml"];
    assert!(told(folder.path(), &both).await.bad(2).contains("cannot be used with"));
}

#[tokio::test]
async fn what_is_not_there_or_no_configuration_is_told_without_a_stumble() {
    let folder = folder();
    let err = told(folder.path(), &["check"]).await.bad(78);
    assert!(err.starts_with("config/gateway.toml: cannot read the file: there is no such file\n"), "{err}");
    let err = told(folder.path(), &["check", "--config", "."]).await.bad(78);
    assert!(err.starts_with(".: cannot read the file: it is a directory\n"), "{err}");
    fs::write(folder.path().join("empty.toml"), "").expect("a file");
    told(folder.path(), &["check", "--config", "empty.toml"]).await.bad(78);
    fs::write(folder.path().join("bytes.toml"), [0xFF, 0x00, 0xC3]).expect("a file");
    let err = told(folder.path(), &["check", "--config", "bytes.toml"]).await.bad(78);
    assert!(err.starts_with("bytes.toml: cannot read the file: it is not UTF-8 text\n"), "{err}");
    for arguments in [&["nonsense"][..], &[], &["check", "--nonsense"], &["contract"], &["secrets", "new", "-k", "x"]] {
        told(folder.path(), arguments).await.bad(2);
    }
    for arguments in [["--version"], ["--help"]] {
        assert!(told(folder.path(), &arguments).await.good().contains("ollgate"));
    }
}

#[tokio::test]
async fn a_contract_is_checked_as_one_and_served_by_itself_never() {
    let folder = folder();
    let shown = told(folder.path(), &["contract", "show", "stackaudit"]).await.good();
    std::fs::write(folder.path().join("mine.toml"), &shown).expect("a file");
    let good = told(folder.path(), &["check", "--config", "mine.toml"]).await.good();
    assert!(good.contains("mine.toml is a good contract: stackaudit, "), "{good}");
    assert!(good.contains("contract = \"./mine.toml\""), "{good}");
    std::fs::write(folder.path().join("bad.toml"), shown.replace("[[operation]]", "[[operation]]\nnonsense = 1"))
        .expect("a file");
    let err = told(folder.path(), &["check", "--config", "bad.toml"]).await.bad(78);
    assert!(err.contains("bad.toml:") && err.contains("nonsense") && !err.contains("[[site]]"), "{err}");
    let err = told(folder.path(), &["serve", "--config", "mine.toml"]).await.bad(78);
    assert!(err.contains("is a product's contract and no configuration") && err.lines().count() == 2, "{err}");
    // A configuration that is wrong stays one.
    std::fs::write(folder.path().join("half.toml"), format!("[[site]]\n{shown}")).expect("a file");
    let err = told(folder.path(), &["check", "--config", "half.toml"]).await.bad(78);
    assert!(err.contains("half.toml cannot be used"), "{err}");
}

#[tokio::test]
async fn contracts_are_listed_and_shown_and_what_is_shown_works() {
    let folder = folder();
    let listed = told(folder.path(), &["contract", "list"]).await.good();
    assert!(listed.lines().any(|line| line == "vantage"), "{listed}");
    for name in listed.lines() {
        let shown = told(folder.path(), &["contract", "show", name]).await.good();
        assert!(shown.contains(&format!("name = \"{name}\"")), "{name}");
        // The file to copy for a product of one's own is a file that works.
        fs::write(folder.path().join("own.toml"), shown).expect("a file");
        let shipped = fs::read_to_string("config/gateway.toml").expect("the configuration that ships");
        let own = shipped.replace("contract = \"vantage\"", "contract = \"own.toml\"");
        assert_ne!(own, shipped);
        fs::write(folder.path().join("gateway.toml"), own).expect("a file");
        if name == "vantage" {
            let out = told(folder.path(), &["check", "--config", "gateway.toml"]).await.good();
            assert!(out.contains("contract vantage"), "{out}");
        }
    }
    let said = told(folder.path(), &["contract", "show", "nonsense"]).await;
    assert_eq!(said.out, "");
    let err = said.bad(1);
    assert!(err.contains("`nonsense`") && err.contains("vantage"), "{err}");
}

#[tokio::test]
async fn new_secrets_are_of_their_kind_and_no_two_are_alike() {
    let folder = folder();
    for (kind, start) in [
        ("hmac", ""),
        ("rsa", "-----BEGIN PRIVATE KEY-----\n"),
        ("es256", "-----BEGIN PRIVATE KEY-----\n"),
        ("ed25519", "-----BEGIN PRIVATE KEY-----\n"),
    ] {
        let made = [0; 2].map(|_| folder.path());
        let one = told(made[0], &["secrets", "new", "--kind", kind]).await.good();
        let two = told(made[1], &["secrets", "new", "--kind", kind]).await.good();
        assert_ne!(one, two, "{kind}");
        assert!(one.starts_with(start) && one.ends_with('\n') && !one.ends_with("\n\n"), "{kind}");
        if kind == "hmac" {
            assert!(one.trim_end().len() >= 64, "long enough for HS512");
        }
        // The proof of a key is that the gateway takes it.
        let algorithm = match kind {
            "hmac" => "HS512",
            "rsa" => "PS256",
            "es256" => "ES256",
            _ => "EdDSA",
        };
        fs::write(folder.path().join("key"), one).expect("a file");
        let shipped = fs::read_to_string("config/gateway.toml").expect("the configuration that ships");
        let before = "algorithm = \"HS256\", secret_file = \"data/secrets/tokens\", generate = true";
        let own = shipped.replace(before, &format!("algorithm = \"{algorithm}\", secret_file = \"key\""));
        assert_ne!(own, shipped);
        fs::write(folder.path().join("gateway.toml"), own).expect("a file");
        told(folder.path(), &["check", "--config", "gateway.toml"]).await.good();
    }
    let default = told(folder.path(), &["secrets", "new"]).await.good();
    assert!(!default.contains("BEGIN") && default.trim_end().len() >= 64);
}

#[tokio::test]
async fn a_written_secret_is_its_owners_alone_and_never_written_over() {
    let folder = folder();
    for kind in ["hmac", "rsa", "es256", "ed25519"] {
        let file = format!("secrets/{kind}");
        let write = ["secrets", "new", "--kind", kind, "--write", &file];
        let out = told(folder.path(), &write).await.good();
        let path = folder.path().join(&file);
        let text = fs::read_to_string(&path).expect("the secret");
        assert!(out.contains(&file) && !out.contains(text.trim_end()), "it names the file, not the secret: {out}");
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("secrets")).expect("its folder").permissions().mode() & 0o077, 0);
        let err = told(folder.path(), &write).await.bad(1);
        assert!(err.contains(&file) && err.contains("exists"), "{err}");
        assert_eq!(fs::read_to_string(&path).expect("the secret"), text, "it may be in use");
    }
    assert_eq!(names(&folder.path().join("secrets")).len(), 4, "and no draft is left");
    fs::write(folder.path().join("file"), "").expect("a file");
    let err = told(folder.path(), &["secrets", "new", "--write", "file/secret"]).await.bad(1);
    assert!(err.contains("file/secret"), "{err}");
}

#[tokio::test]
async fn a_secret_that_does_not_fit_on_the_disk_leaves_nothing_behind() {
    let folder = folder();
    let mut command = run_by("sh".as_ref(), folder.path());
    // One block: a P-256 key fits, an RSA key does not.
    command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" secrets new --kind rsa --write key"]);
    command.arg(super::harness::binary());
    let err = run(command).await.bad(1);
    assert!(err.contains("key could not be written"), "{err}");
    assert_eq!(names(folder.path()), Vec::<String>::new(), "half a key would be taken for one");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_accident() {
    let folder = folder();
    for arguments in [&["contract", "show", "vantage"][..], &["secrets", "new", "-k", "rsa"], &["completions", "bash"]]
    {
        let mut command = run_by("sh".as_ref(), folder.path());
        // The pipe has no reader any more when the answer is printed.
        command.args(["-c", "{ sleep 0.1; \"$0\" \"$@\"; } | true"]).arg(super::harness::binary()).args(arguments);
        command.stdout(Stdio::null());
        let said = run(command).await;
        assert_eq!(said.err, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn the_tour_plays_every_step_and_ends_well() {
    let folder = folder();
    let tour = ["demo", "--tour", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    // A second time on what the first one left: certificates, secrets, accounts.
    for _ in 0..2 {
        let said = told(folder.path(), &tour).await;
        assert_eq!(said.err, "");
        let out = said.good();
        let steps: Vec<&str> =
            out.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).collect();
        assert_eq!(steps.len(), 8, "{out}");
        for (at, step) in steps.iter().enumerate() {
            assert!(step.starts_with(&format!("{}. ", at + 1)), "{step}");
        }
        for shown in ["backend saw x-user-id: user_", "-> 201 Created", "-> 403 Forbidden", "-> 429 Too Many Requests"]
        {
            assert!(out.contains(shown), "no {shown} in {out}");
        }
        assert!(out.ends_with("\nEvery step was as it should be.\n"), "{out}");
        assert!(!out.contains("eyJ") && !out.contains("vantage_"), "no credential is printed: {out}");
    }
    for file in
        ["data/tollgate.db", "data/secrets/tokens", "data/secrets/pepper", "data/secrets/admin", "certs/ca-key.pem"]
    {
        let mode = fs::metadata(folder.path().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is its owner's alone");
    }
}

#[tokio::test]
async fn a_tour_that_meets_something_else_says_at_which_step_and_fails() {
    let folder = folder();
    // One native request a minute from here: the account is made, the sign-in is one too many.
    let mut command = tollgate(folder.path());
    command.args(["demo", "--tour", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("TOLLGATE__SITE__0__LIMITS__NATIVE_PER_ADDRESS", "[\"1/1m\"]");
    let said = run(command).await;
    let out = said.out.clone();
    let err = said.bad(1);
    assert!(out.contains("\n2. Sign in\n") && !out.contains("\n3. "), "{out}");
    assert!(!out.contains("as it should be") && err.contains("expected 200, got 429"), "{err}");

    // And one that cannot even begin.
    fs::write(folder.path().join("taken"), "").expect("a file");
    for (what, given) in [("--data", "taken"), ("--certs", "taken")] {
        let tour = ["demo", "--tour", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0", what, given];
        let said = told(folder.path(), &tour).await;
        assert!(!said.out.contains("1. "), "{said:?}");
        assert!(said.code.is_some_and(|code| code != 0) && said.err.contains("taken"), "{said:?}");
        assert!(!said.err.contains("panicked"), "{said:?}");
    }
}

#[tokio::test]
async fn flags_of_the_demo_win_over_the_environment() {
    let folder = folder();
    let mut command = tollgate(folder.path());
    command.args(["demo", "--tour", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("TOLLGATE__LISTEN__HTTPS", "127.0.0.1:1").env("TOLLGATE__LISTEN__ADMIN", "127.0.0.1:1");
    run(command).await.good();
}
