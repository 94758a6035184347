//! Files that are read again and are not what they were: gone, piped, swapped by the folder.

use std::time::Duration;

use serde_json::json;

use super::backend::Backend;
use super::client::Client;
use super::harness::TOKEN_SECRET;
use super::process::Home;
use super::reload::{GENERATION, GOOD, NEW_SECRET, POSTS, WATCH, home, metric, signed_in, until, until_status};

fn text(home: &Home) -> String {
    std::fs::read_to_string(home.folder.path().join("gateway.toml")).expect("the file")
}

/// A gateway whose pepper is made at the first start, beside the store, as most files have it.
pub fn made_at_start(backend: &Backend) -> Home {
    let home = home(backend, WATCH, "");
    let whole = text(&home);
    let pepper = whole.find("[site.api_keys]").expect("a section");
    let upstream = whole.find("[site.upstream.app]").expect("a section");
    let without = format!("{}{}", &whole[..pepper], &whole[upstream..]);
    std::fs::write(home.folder.path().join("gateway.toml"), without).expect("a file");
    home
}

#[tokio::test]
async fn a_secret_that_goes_missing_is_not_made_anew_while_it_runs_nor_by_a_successor() {
    let backend = Backend::start().await;
    let home = made_at_start(&backend);
    let folder = home.folder.path();
    let mut served = home.start().await;
    let made = |out: &str| out.contains("a secret was made").then_some(());
    served.process.until("that a secret was made", made).await;
    let token = signed_in(&served.http, "ada@example.com").await;
    let asked = json!({ "name": "k", "permissions": ["read:*"] });
    let key = served.http.post("/api/v1/api-keys", &asked).bearer(&token).send().await.string("/key");
    let file = folder.join("data/secrets/pepper-vantage");
    let secret = std::fs::read_to_string(&file).expect("it was made");

    std::fs::remove_file(&file).expect("it was there");
    until(&served, GOOD, 0.0).await;
    assert!(!file.exists(), "whoever looks for it finds that it is gone");
    served.process.signal("HUP").await;
    served.process.signal("USR2").await;
    served.process.until("a refusal", |out| out.contains("\"handover_failed\"").then_some(())).await;
    assert!(!file.exists(), "nor does the one who comes make another");
    assert_eq!(served.http.get(POSTS).api_key(&key).send().await.status, 200, "keys are good all the while");
    std::fs::write(&file, &secret).expect("a file");
    until(&served, GOOD, 1.0).await;
    assert_eq!(served.http.get(POSTS).api_key(&key).send().await.status, 200);
    // A site that is new has none yet, and is given one.
    let whole = text(&home);
    let site = whole[whole.find("[[site]]").expect("a site")..].replace("\"localhost\"", "\"new.example\"");
    let site = site.replace("contract = \"vantage\"", "contract = \"vantage\"\nname = \"new\"\nrealm = \"new\"");
    std::fs::write(folder.join("gateway.toml"), format!("{whole}\n{}", site.replace(TOKEN_SECRET, NEW_SECRET)))
        .expect("a file");
    until(&served, "tollgate_config_reloads_total{outcome=\"ok\"}", 3.0).await;
    assert!(folder.join("data/secrets/pepper-new").exists());
    let out = served.process.stop().await.good();
    assert!(out.contains("it was there, and is gone"), "{out}");
    assert_eq!(out.matches("a secret was made").count(), 2, "{out}");
}

#[tokio::test]
async fn a_configuration_that_is_piped_in_is_read_once_and_is_no_change_afterwards() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    // It becomes the gateway, and so ends with the test.
    let mut shell = super::process::run_by("/bin/bash".as_ref(), home.folder.path());
    shell.args(["-c", "exec \"$0\" serve --config <(cat gateway.toml)"]);
    shell.arg(super::harness::binary());
    let served = home.start_as(shell).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((metric(&served, GOOD).await, metric(&served, GENERATION).await), (Some(1.0), Some(1.0)));
    assert_eq!(served.http.get(POSTS).send().await.status, 401);
}

#[tokio::test]
async fn a_folder_of_links_that_is_swapped_whole_counts_whole_or_not_at_all() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    let folder = home.folder.path();
    // As Kubernetes mounts a ConfigMap: every file a link through `..data`, which is replaced in one step.
    let text = text(&home);
    let put = |version: &str, text: &str, tracing: &str| {
        std::fs::create_dir(folder.join(version)).expect("a folder");
        std::fs::write(folder.join(version).join("gateway.toml"), format!("include = \"tracing.toml\"\n{text}"))
            .expect("a file");
        std::fs::write(folder.join(version).join("tracing.toml"), tracing).expect("a file");
    };
    let swap = |to: &str| {
        std::os::unix::fs::symlink(to, folder.join("..data_tmp")).expect("a link");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("in place");
    };
    put("..1", &text, "[tracing]\nsample_ratio = 0.5\n");
    swap("..1");
    std::fs::remove_file(folder.join("gateway.toml")).expect("it was there");
    for name in ["gateway.toml", "tracing.toml"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name)).expect("a link");
    }
    let served = home.start().await;
    let client: &'static Client = Box::leak(Box::new(served.http.clone()));
    assert_eq!(client.get(POSTS).send().await.status, 401);
    put("..2", &text.replace("/api/v1/{", "/api/v2/{"), "[tracing]\nsample_ratio = 1\n");
    swap("..2");
    std::fs::remove_dir_all(folder.join("..1")).expect("it was there");
    until_status(|| client.get(POSTS), 404).await;
    // Of what is broken in one file the other counts for nothing.
    put("..3", &text, "[tracing]\nsample_ratio = 2\n");
    swap("..3");
    until(&served, GOOD, 0.0).await;
    assert_eq!(client.get(POSTS).send().await.status, 404);
    swap("..2");
    until(&served, GOOD, 1.0).await;
    served.process.stop().await.good();
}
